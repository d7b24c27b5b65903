"""A picture before and after, to look at: one uncovers the other, with the mouse or the keys."""

import html
from pathlib import Path

# What a visitor does in it; `element` is Gradio's name of the part of the page that holds it.
# Listening there once serves all pictures that are shown one after the other.
SCRIPT = """
const stage = () => element.querySelector('.stage');
const uncover = (percent) => {
  stage().style.setProperty('--covered', percent + '%');
  element.querySelector('input').value = percent;
};
element.addEventListener('input', (event) => {
  if (event.target.type === 'range') uncover(event.target.value);
});
element.addEventListener('click', (event) => {
  if (event.target.tagName !== 'BUTTON') return;
  const whole = stage().classList.toggle('pixels');
  event.target.setAttribute('aria-pressed', whole);
  if (whole) {
    stage().scrollLeft = (stage().scrollWidth - stage().clientWidth) / 2;
    stage().scrollTop = (stage().scrollHeight - stage().clientHeight) / 2;
  }
});
let last = null;
const move = (event) => {
  const sheet = element.querySelector('.sheet').getBoundingClientRect();
  if (!stage().classList.contains('pixels')) {
    const share = (event.clientX - sheet.left) / sheet.width;
    uncover(Math.round(100 * Math.min(1, Math.max(0, share))));
  } else if (last && event.pointerType !== 'touch') {  // fingers scroll by themselves
    stage().scrollLeft -= event.clientX - last.clientX;
    stage().scrollTop -= event.clientY - last.clientY;
  }
  last = event;
};
element.addEventListener('pointerdown', (event) => {
  if (!event.target.closest('.sheet')) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  last = null;
  move(event);
});
element.addEventListener('pointermove', (event) => {
  if (event.target.hasPointerCapture?.(event.pointerId)) move(event);
});
"""


def viewer(before: Path, after: Path | None = None, size: tuple[int, int] = (0, 0)) -> str:
    """The HTML for a picture, and for what was made of it where there is something.

    Args:
      before, after: files that a browser can show, of one size.
      size: (width, height) of the picture itself, to show it pixel by pixel.
    """
    first = _image(before, "before", "The photograph as it came")
    if after is None:
        return f'<div class="stage"><div class="sheet">{first}<b>before</b></div></div>'
    width, height = size
    return f"""
<div class="stage" tabindex="0" role="group" aria-label="The photograph before and after"
  style="--width: {width}px; --height: {height}px">
  <div class="sheet">
    {first}{_image(after, "after", "The restored photograph")}<i></i><b>before</b><b>after</b>
  </div>
</div>
<div class="controls">
  <label>before <input type="range" value="50" aria-label="Move between before and after"> after
  </label>
  <button type="button" aria-pressed="false">100%</button>
</div>"""


def _image(path: Path, name: str, words: str) -> str:
    source = html.escape(f"gradio_api/file={path}")
    return f'<img class="{name}" src="{source}" alt="{words}" draggable="false">'
