"""Home of the prompt templates: the fixed text around a prompt that tells the model where its answer begins.

The paper feeds prompts as users wrote them; "plain" is that plus the newline at which the answer starts. "chat" is
the checkpoint's own template, Jinja source that is rendered in a process of its own (text/sandbox.py).
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct_jax.errors import InputError

_SECONDS = 10  # a template that takes longer loops for ever
_SIGN = "7f3a9c5e-of-this-talk"
_MARK = f"message-{{}}-{_SIGN}"


@dataclass(frozen=True)
class Template:
    """Text before and after a prompt; a response ends before `stop`, for a model that was never taught to end one.

    With `strip`, white space around the prompt is left out, as some chat templates do.
    """

    prefix: str
    suffix: str
    stop: str = ""
    strip: bool = False

    def cleaned(self, prompt: str) -> str:
        """The prompt as it stands between prefix and suffix."""
        return prompt.strip() if self.strip else prompt

    def render(self, prompt: str) -> str:
        """The prompt as the model reads it; the response follows directly."""
        return self.prefix + self.cleaned(prompt) + self.suffix


TEMPLATES = {
    "verbatim": Template("", ""),
    "plain": Template("", "\n"),
    # The response goes on in the prompt's own sentence, its first word with the space before it, and ends with its line.
    "continuation": Template("", "", stop="\n"),
    "instruction": Template("instruction :\n", "\nresponse :\n"),
}


def as_jinja(template: Template, begins: bool) -> str:
    """A chat template for other tools that frames every message of the user as `template` does and puts the turns one after the
    other, each on a line of its own; a talk that ends with an answer ends with the end of text, and where it `begins` with BOS that is
    in the template, for other tools add none of their own."""
    prefix, suffix = (json.dumps(x, ensure_ascii=False) for x in (template.prefix, template.suffix))
    return ("{{ bos_token }}" if begins else "") + (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {prefix} + message['content'] + {suffix} }}}}"
        "{% else %}{{ message['content'] + (eos_token if loop.last else '\\n') }}{% endif %}{% endfor %}"
    )


def chat_template(source: str | None, named_tokens: dict[str, str]) -> Template:
    """A checkpoint's chat template around one message of the user, up to where the answer begins.

    InputError where there is no template, where it fails or runs too long, and where it shows the message not
    exactly once, or changed.
    """
    mark = _MARK.format(0)
    text = _render(source, named_tokens, [{"role": "user", "content": f" {mark} "}])
    if text.count(mark) != 1:
        raise InputError(
            f"the chat template shows the user's message {text.count(mark)} times, so it cannot be split there: "
            "use text.template='plain' or 'instruction'"
        )
    before, after = text.split(mark)
    if before.endswith(" ") and after.startswith(" "):
        return Template(before[:-1], after[1:])
    return Template(before, after, strip=True)


def chat_pieces(
    source: str | None,
    named_tokens: dict[str, str],
    messages: Sequence[dict[str, str]],
    has_specials: Callable[[str], bool],
) -> list[tuple[str, bool]]:
    """A whole talk ({"role", "content"} messages, the user's last) up to where the answer begins, rendered by the chat
    template, as pieces (text, whether its special tokens count).

    They do not in what the user wrote, nor in another message that `has_specials`: for these a mark is rendered. The other
    messages the template may look into, as some do for an answer's reasoning. InputError as for `chat_template`."""
    marked, given = [], []
    for i, message in enumerate(messages):
        content, mark = message["content"], _MARK.format(i)
        inner = content.strip()
        own = message["role"] != "user" and not has_specials(content) and _SIGN not in content
        if own or not inner:
            given.append(message)
            continue
        # White space stays around the mark, so that the template trims it as it would around the message.
        given.append({**message, "content": content.replace(inner, mark, 1)})
        marked.append((mark, inner))
    text, pieces = _render(source, named_tokens, given), []
    for mark, inner in marked:
        before, found, after = text.partition(mark)
        if found:  # a template may leave an earlier message out
            pieces += [(before, True), (inner, False)]
            text = after
    return [*pieces, (text, True)]


def _render(source: str | None, named_tokens: dict[str, str], messages: list[dict[str, str]]) -> str:
    if not source:
        raise InputError("this checkpoint has no chat template: use the template 'plain' or 'instruction'")
    asked = {"source": source, "messages": messages, "named_tokens": named_tokens}
    command = [sys.executable, "-P", str(Path(__file__).with_name("sandbox.py"))]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the chat template was not done after {_SECONDS} seconds: does it loop?") from error
    if done.returncode != 0:
        raise InputError("the chat template needed more memory or time than it may have")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise InputError(f"the chat template fails: {answer['error']}")
    return answer["text"]
