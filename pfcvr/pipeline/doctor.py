"""Three questions to a captioning endpoint before money is spent on it.

Does a schema bind? Servers accept options that they no longer know, and answer as they like. Does the model see the
picture? Some set-ups drop it without a word. Does an answer end by itself?
"""

import base64
import json
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

from pfcvr.config import DoctorConfig
from pfcvr.errors import ServerError, StageStopped
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.captioners.chat_client import CONTINUE, ChatClient, ClientSettings, RequestFailed, Retries
from pfcvr.pipeline.captioners.chat_reply import Reply
from pfcvr.pipeline.captioners.chat_request import caption_body, chat_body, drawing
from pfcvr.pipeline.captioners.endpoint import api_key, base_url, choose_model
from pfcvr.pipeline.captioners.image_input import prepare
from pfcvr.pipeline.captioners.judge import Answer, Judged, judge
from pfcvr.pipeline.captioners.prompt import Prompt, load_prompt

RETRIES = Retries(tries=2, patience=10.0)
# The question forbids what the schema demands: only a server that imposes the schema can give this answer.
CODE = "amber-41-heron"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": [CODE]}},
    "required": ["answer"],
    "additionalProperties": False,
}
SCHEMA_QUESTION = "Write the word hello as plain text. Write no JSON, no braces and no quotation marks."
COLOR_QUESTION = "Which color fills the picture? Answer with one word."
SMALL, LARGE = 256, 768  # pixels
FEW_TOKENS = 64
SHOWN = 60


@dataclass(frozen=True)
class Finding:
    """The answer to one of the questions ``schema``, ``image`` and ``stop``."""

    question: str
    passed: bool
    said: str


@dataclass(frozen=True)
class Diagnosis:
    base_url: str
    model: str
    prompt: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether captions may be asked for."""
        return all(finding.passed for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "passed": self.passed}

    def text(self) -> str:
        """One line a question, then the verdict."""
        lines = [f"{self.model} at {self.base_url}, prompt {self.prompt}"]
        lines += [f"{f.question:<7} {'ok' if f.passed else 'FAILED':<7} {f.said}" for f in self.findings]
        failed = ", ".join(finding.question for finding in self.findings if not finding.passed)
        return "\n".join([*lines, f"not ready: {failed}" if failed else "ready"])


def run(config: DoctorConfig) -> Diagnosis:
    """Ask the three questions.

    Raises UsageError for an address or prompt that is none, ServerError when the server cannot be used at all: it is
    not there, refuses the key, lacks the model, or answers nothing.
    """
    url, key, prompt = base_url(config.base_url), api_key(), load_prompt(config.prompt)
    model = choose_model(url, key, config.model)
    settings = ClientSettings([url], model, concurrency=1, timeout=config.timeout, retries=RETRIES)
    client = ChatClient(settings, chat_body(model, "Say yes.", None, max_tokens=FEW_TOKENS), key)
    doctor = _Doctor(client, model, prompt, config)
    try:
        findings = (doctor.schema(), doctor.image(), doctor.stop())
    except StageStopped as error:
        raise ServerError(str(error).removesuffix(f"; {CONTINUE}")) from None
    finally:
        client.close()
    return Diagnosis(url, model, prompt.label, findings)


class _Doctor:
    def __init__(self, client: ChatClient, model: str, prompt: Prompt, config: DoctorConfig) -> None:
        self._client, self._model, self._prompt, self._config = client, model, prompt, config

    def schema(self) -> Finding:
        """Does the answer keep to a schema that the question speaks against?"""
        if self._prompt.json_schema is None:
            return Finding("schema", True, "not asked: the prompt wants plain text")
        reply = self._ask(SCHEMA_QUESTION, SCHEMA)
        if isinstance(reply, str):
            return Finding("schema", False, reply)
        try:
            binds = json.loads(reply.text) == {"answer": CODE}
        except (ValueError, RecursionError):
            binds = False
        if binds:
            return Finding("schema", True, "the answer kept to a schema that the question spoke against")
        return Finding("schema", False, f"the server accepted a schema and did not impose it: {_quoted(reply)}")

    def image(self) -> Finding:
        """Do prompt tokens grow with the picture, and do two pictures give two answers?"""
        red, blue, large = _plain("red", SMALL), _plain("blue", SMALL), _plain("blue", LARGE)
        replies = [self._ask(COLOR_QUESTION), *(self._ask(_with_question(jpeg)) for jpeg in (red, blue, large))]
        failed = [reply for reply in replies if isinstance(reply, str)]
        if failed:
            return Finding("image", False, failed[0])
        none, of_red, of_blue, of_large = (reply for reply in replies if isinstance(reply, Reply))
        tokens = [reply.prompt_tokens for reply in (none, of_blue, of_large)]
        answers = f"{_quoted(of_red)} for a red picture, {_quoted(of_blue)} for a blue one"
        differ = of_red.text.strip() != of_blue.text.strip()
        if tokens[0] is None or tokens[1] is None or tokens[2] is None:
            return Finding("image", differ, f"the server counts no prompt tokens; {answers}")
        counts = (
            f"{tokens[0]} prompt tokens without a picture, {tokens[1]} with {SMALL} px, {tokens[2]} with {LARGE} px"
        )
        if tokens[1] <= tokens[0]:
            return Finding("image", False, f"the picture never reaches the model: {counts}; {answers}")
        fixed = "" if tokens[2] > tokens[1] else " (every picture costs the same here)"
        return Finding("image", differ, f"{counts}{fixed}; {answers}")

    def stop(self) -> Finding:
        """Does an answer to the real prompt end by itself?"""
        picture = prepare(_vehicle(), self._config.image)
        draw = drawing(self._prompt, 0, 0, False)
        reply = self._sent(caption_body(self._model, self._prompt, draw, picture.jpeg))
        if isinstance(reply, str):
            return Finding("stop", False, reply)
        spent = (
            f"{reply.completion_tokens if reply.completion_tokens is not None else 'some'} of {draw.max_tokens} tokens"
        )
        if reply.finish_reason != "stop":
            return Finding("stop", False, f"ended by '{reply.finish_reason}' after {spent}: {_quoted(reply)}")
        answer = Answer(reply.text, "stop", reply.prompt_tokens, reply.completion_tokens, picture.vision_tokens)
        verdict = judge(answer, self._prompt)
        kept = "kept" if isinstance(verdict, Judged) else f"rejected as {verdict.reason} ({verdict.detail})"
        return Finding("stop", True, f"ended by itself after {spent}; this caption of a drawing would be {kept}")

    def _ask(self, content: str | list[dict[str, Any]], schema: dict[str, Any] | None = None) -> Reply | str:
        body = chat_body(self._model, content, schema, max_tokens=FEW_TOKENS, temperature=0, seed=0)
        return self._sent(body)

    def _sent(self, body: bytes) -> Reply | str:
        """The answer, or why there is none."""
        try:
            return self._client.ask(body).reply
        except RequestFailed as error:
            return f"no answer ({error.reason}): {error.detail}"


def _with_question(jpeg: bytes) -> list[dict[str, Any]]:
    address = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    return [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": COLOR_QUESTION}]


def _plain(color: str, side: int) -> bytes:
    return _jpeg(Image.new("RGB", (side, side), color))


def _vehicle() -> bytes:
    """A drawing of a car, for a prompt that asks about one."""
    picture = Image.new("RGB", (512, 384), "lightgray")
    draw = ImageDraw.Draw(picture)
    draw.polygon([(150, 190), (200, 110), (340, 110), (400, 190)], fill="darkred", outline="black")
    draw.polygon([(172, 186), (208, 122), (268, 122), (268, 186)], fill="lightblue")
    draw.polygon([(280, 186), (280, 122), (334, 122), (378, 186)], fill="lightblue")
    draw.rounded_rectangle((60, 186, 460, 270), 24, fill="darkred", outline="black")
    for x in (140, 380):
        draw.ellipse((x - 42, 228, x + 42, 312), fill="black")
        draw.ellipse((x - 20, 250, x + 20, 290), fill="silver")
    draw.ellipse((432, 204, 456, 224), fill="yellow")
    return _jpeg(picture)


def _jpeg(picture: Image.Image) -> bytes:
    content = BytesIO()
    picture.save(content, "JPEG", quality=92)
    return content.getvalue()


def _quoted(reply: Reply) -> str:
    text = plain_text(reply.text)
    return f"'{text[:SHOWN]}{'...' if len(text) > SHOWN else ''}'"
