"""Home of the process that renders a chat template: JSON in, JSON out, with limits on time and memory.

Templates come with checkpoints, so they are code from strangers. Jinja's immutable sandbox keeps them from everything
but their arguments; the process around it ends those that loop or fill the memory. What a template may use is what
transformers gives it, so that it renders the same text (transformers/utils/chat_template_utils.py).
"""

import json
import resource
import sys
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

SECONDS, BYTES, CHARACTERS = 8, 1 << 30, 10_000_000


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: marks what an assistant says, for training; here it is just its body."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class PlainNamespace(Namespace):
    """A namespace without names that begin with an underscore, which lead into Python's internals."""

    def __init__(*args, **attributes):
        self, *rest = args
        Namespace.__init__(self)
        for name, value in dict(*rest, **attributes).items():
            self[name] = value

    def __setitem__(self, name, value):
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace has no {name!r}")
        Namespace.__setitem__(self, name, value)


def _raise(message):
    raise jinja2.TemplateError(message)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(source: str, messages: list[dict], named_tokens: dict[str, str]) -> str:
    """The text of `messages` with the start of the assistant's answer after it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": PlainNamespace,
        "dict": lambda *items, **named: dict(*items, **named),
    }
    return environment.from_string(source).render(
        **named_tokens, messages=messages, tools=None, documents=None, add_generation_prompt=True
    )


def main() -> None:
    """Renders what standard input asks for, within the limits."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    asked = json.load(sys.stdin)
    try:
        text = render(**asked)
        answer = {"text": text} if len(text) <= CHARACTERS else {"error": "it renders too much text"}
    except Exception as error:  # whatever the template does wrong, down to RecursionError and MemoryError
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
