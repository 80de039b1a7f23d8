"""Captions by vision-language models behind OpenAI-compatible servers, wherever these come from."""

import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pfcvr.clip_vocabulary import CLIP_LENGTH, clip_vocabulary_file
from pfcvr.config import CaptionConfig
from pfcvr.errors import PfcvrError, StageStopped, first_line
from pfcvr.pipeline.captioners.answer_source import Answerer, AnswerSource
from pfcvr.pipeline.captioners.chat_client import CONTINUE, RequestFailed
from pfcvr.pipeline.captioners.chat_reply import Reply
from pfcvr.pipeline.captioners.chat_request import Drawing, caption_body, drawing
from pfcvr.pipeline.captioners.forecast import Meter, estimate, tell_on_stderr
from pfcvr.pipeline.captioners.image_input import PreparedImage, fitted_size, prepare, vision_tokens
from pfcvr.pipeline.captioners.judge import Answer, Judged, Refusal, judge
from pfcvr.pipeline.captioners.prompt import Prompt, load_prompt
from pfcvr.pipeline.captioners.request_cache import RequestCache
from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.records import Caption, CaptionOrigin, ImageRecord, Rejected
from pfcvr.stage import RunOptions
from pfcvr.stage_files import kept_so_far, rejected_so_far
from pfcvr.store import Workspace
from pfcvr.wording import amount

CACHE = Path("cache") / "answers.sqlite"
# Rows that are prepared or judged at a time, on half of the cores: a picture of 40 megapixels takes hundreds of
# megabytes, and where a hundred threads want the interpreter, the one that talks to the server waits for each.
MOST_COMPUTING = 16
MOST_PREPARED = 64  # images made ready beyond those in flight, so that a place that falls free is taken at once
SAMPLED = 1000


class ChatCaptioner:
    """Asks, judges, asks again with other sampling; keeps each answer by what it depends on, so none is paid for twice.

    No server is talked to before the first question that no kept answer fits: what is sealed needs none. With
    ``options.retry`` an image whose kept answers are all bad is asked about again, as often as a new one.
    """

    rejected_count = 0
    normal_reasons: frozenset[str] = frozenset()

    def __init__(
        self, workspace: Workspace, config: CaptionConfig, options: RunOptions, source: AnswerSource, model: str
    ) -> None:
        self._workspace, self._config, self._options, self._source = workspace, config, options, source
        self._model = model
        self._prompt = load_prompt(config.prompt)
        self._depends_on = _dependencies(config, source, self._prompt, model)
        self.settings = {"prompt": self._prompt.label, **self._depends_on, "seed": config.seed}
        self.inputs: dict[str, str] = {}
        self.workers = config.concurrency + min(config.concurrency, MOST_PREPARED)
        self._starting = threading.Lock()
        self._computing = threading.Semaphore(min(max(1, (os.cpu_count() or 1) // 2), MOST_COMPUTING))
        self._stopped: PfcvrError | None = None
        self._session: _Session | None = None
        self._asking: _Asking | None = None

    def caption(self, image: ImageRecord) -> Caption | Rejected:
        """The first good answer about ``image``, kept or new, or why there is none after all attempts."""
        session = self._started()
        asked = _Asked(image.image_id)
        try:
            with self._computing:
                result = self._first_good(session, image, asked)
        except UnreadableImage as error:
            result = _rejected(image, error.reason, error.detail)
        except RequestFailed as error:
            result = _rejected(image, error.reason, error.detail, asked.answers + error.tries)
            asked.requests.append({"tries": error.tries, "failed": error.reason})
        if self._asking is not None:
            self._asking.meter.image_done(sum("seconds" in request for request in asked.requests))
        if asked.requests:
            session.telemetry.write(asked)
        return result

    def rejected(self) -> Iterator[Rejected]:
        return iter(())

    def live(self) -> str:
        """What the client is at, tokens a second."""
        asking = self._asking
        if asking is None:
            return ""
        return ", ".join(filter(None, [asking.client.live(), asking.meter.live()]))

    def give_up(self) -> None:
        self.stop(StageStopped(f"the run was ended; {CONTINUE}"))

    def stop(self, error: PfcvrError) -> None:
        """End every call of ``caption`` at work, and all to come, with ``error``."""
        self._stopped = self._stopped or error
        if self._asking is not None:
            self._asking.client.stop(error)

    def close(self) -> None:
        """Cancel what is under way and close connections and files."""
        if self._asking is not None:
            self._asking.client.close()
        if self._session is not None:
            self._session.close()

    def _first_good(self, session: "_Session", image: ImageRecord, asked: "_Asked") -> Caption | Rejected:
        cut_off, reason, detail = False, "no_answer", ""
        for attempt in itertools.count():
            draw = drawing(self._prompt, attempt, self._config.seed, cut_off)
            reply = session.cache.get(self._request(image, draw))
            if reply is None:
                if attempt >= self._config.attempts and not self._may_ask_again(asked):
                    break
                reply = self._ask(session, image, draw, asked)
            asked.answers += 1
            verdict = self._judge(image, reply)
            if isinstance(verdict, Judged):
                return self._caption(image, reply, draw, verdict)
            reason, detail = verdict.reason, verdict.detail
            cut_off = cut_off or reply.finish_reason == "length"
        return _rejected(image, reason, detail, asked.answers)

    def _request(self, image: ImageRecord, draw: Drawing) -> dict[str, Any]:
        """All that an answer depends on."""
        return {"sha256": image.sha256, **self._depends_on, **draw.as_dict()}

    def _may_ask_again(self, asked: "_Asked") -> bool:
        return self._options.retry is not None and len(asked.requests) < self._config.attempts

    def _ask(self, session: "_Session", image: ImageRecord, draw: Drawing, asked: "_Asked") -> Reply:
        with self._waiting():
            asking = self._opened(session)
        if asked.prepared is None:
            asked.prepared = prepare(self._content(session, image), self._config.image)
        body = caption_body(self._model, self._prompt, draw, asked.prepared.jpeg)
        keep = partial(session.cache.put, self._request(image, draw))
        with self._waiting():
            answered = asking.client.ask(body, keep)
        asked.requests.append({"seconds": round(answered.seconds, 4), "tries": answered.tries})
        asking.meter.answered(answered.reply)
        return answered.reply

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Give the place among those who compute to another row meanwhile."""
        self._computing.release()
        try:
            yield
        finally:
            self._computing.acquire()

    def _content(self, session: "_Session", image: ImageRecord) -> bytes:
        """The file's bytes, which are those that were imported: their hash is what the answer is kept under."""
        path = path_inside(session.roots[image.source], image.path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UnreadableImage("missing_file", "there is no such file") from None
        except OSError as error:
            raise UnreadableImage("unreadable_file", f"the file cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise UnreadableImage("changed_file", "the file is not the one that was imported")
        return content

    def _judge(self, image: ImageRecord, reply: Reply) -> Judged | Refusal:
        expected = self._expected_vision_tokens(image)
        answer = Answer(reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, expected)
        return judge(answer, self._prompt)

    def _expected_vision_tokens(self, image: ImageRecord) -> int | None:
        return vision_tokens(*fitted_size(image.width, image.height, self._config.image))

    def _caption(self, image: ImageRecord, reply: Reply, draw: Drawing, judged: Judged) -> Caption:
        weights = self._depends_on.get("weights_sha256")
        origin = CaptionOrigin(
            captioner=self._source.captioner,
            model=self._model,
            revision=reply.model if weights is None else f"sha256:{weights}",
            prompt=self._prompt.label,
            prompt_sha256=self._prompt.sha256,
            sampling={**draw.sampling, "max_tokens": draw.max_tokens},
            seed=draw.seed,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )
        return Caption(
            image_id=image.image_id,
            texts=judged.texts,
            part_texts=judged.part_texts,
            attributes=judged.attributes,
            origin=origin,
        )

    def _started(self) -> "_Session":
        """What every row needs; never waits for a server that is still starting."""
        if self._session is not None and self._stopped is None:
            return self._session
        with self._starts():
            self._session = self._session or self._start()
        return self._session

    def _opened(self, session: "_Session") -> "_Asking":
        """Whom to ask, found or started for the first question that no kept answer fits."""
        with self._starts():
            self._asking = self._asking or self._open(session)
        return self._asking

    @contextmanager
    def _starts(self) -> Iterator[None]:
        """One thread at a time. Whatever goes wrong is no row's fault and ends the run; nothing starts after that."""
        with self._starting:
            if self._stopped is None:
                try:
                    yield
                except PfcvrError as error:
                    self._stopped = self._stopped or error
                except Exception as error:
                    self._stopped = self._stopped or self._cannot_start(error)
            if self._stopped is not None:
                raise self._stopped

    def _cannot_start(self, error: Exception) -> StageStopped:
        if isinstance(error, OSError):
            what = f"{error.filename or self._workspace.root}: {error.strerror or error}"
        else:
            what = f"captioner '{self._source.captioner}' cannot start ({type(error).__name__}: {first_line(error)})"
        return StageStopped(f"{what}; mend the cause and run the same command to continue")

    def _start(self) -> "_Session":
        roots = {name: Path(source.root).resolve() for name, source in self._workspace.sources().items()}
        with ExitStack() as undo:
            telemetry = _Telemetry(self._workspace.folder("caption") / "telemetry.jsonl")
            undo.callback(telemetry.close)
            cache = RequestCache(self._workspace.root / CACHE)
            undo.pop_all()
        return _Session(cache, telemetry, roots)

    def _open(self, session: "_Session") -> "_Asking":
        with ExitStack() as undo:
            client = self._source.open(self._config, self._model, self._prompt)
            undo.callback(client.close)
            asking = _Asking(client, self._forecast(len(session.cache)))
            undo.pop_all()
        return asking

    def _forecast(self, kept_answers: int) -> Meter:
        tell = (lambda text: None) if self._options.quiet else tell_on_stderr
        folder = self._workspace.folder("caption")
        done = kept_so_far(folder) + rejected_so_far(folder).total()
        to_do = max(0, self._workspace.image_count() - done)
        to_do = to_do if self._options.limit is None else min(to_do, self._options.limit)
        sample = itertools.islice(self._workspace.images(), SAMPLED)
        tell(estimate(to_do, self._prompt, sample, self._config.image).text())
        if clip_vocabulary_file() is None:
            tell(
                f"captions are not held to CLIP's {CLIP_LENGTH - 2} tokens, since its vocabulary is not installed; "
                "for it run: pip install --no-deps open_clip_torch"
            )
        if kept_answers:
            tell(f"{amount(kept_answers, 'answer')} kept from before; what fits is taken and costs nothing")
        return Meter(to_do, self._config.concurrency, tell)


def sealed_model(workspace: Workspace, config: CaptionConfig, source: AnswerSource) -> str | None:
    """The model of the captions that were sealed under all other settings of ``config``, None where there are none."""
    manifest = workspace.manifest("caption")
    sealed = manifest.settings if manifest is not None else {}
    if "model" not in sealed:
        return None
    prompt, model = load_prompt(config.prompt), str(sealed["model"])
    needed = {
        "captioner": source.captioner,
        "prompt": prompt.label,
        **_dependencies(config, source, prompt, model),
        "seed": config.seed,
    }
    return model if sealed == needed else None


def _dependencies(config: CaptionConfig, source: AnswerSource, prompt: Prompt, model: str) -> dict[str, Any]:
    """What all answers of a run depend on, whatever the image."""
    return {
        "model": model,
        **source.depends_on,
        "prompt_sha256": prompt.sha256,
        "image": config.image.model_dump(mode="json"),
    }


@dataclass
class _Asked:
    """What one row has cost so far: ``answers`` judged, kept ones included, and ``requests`` made."""

    image_id: str
    answers: int = 0
    prepared: PreparedImage | None = None

    def __post_init__(self) -> None:
        self.requests: list[dict[str, float | str]] = []


@dataclass(frozen=True)
class _Session:
    """What is open from the first row to the last."""

    cache: RequestCache
    telemetry: "_Telemetry"
    roots: dict[str, Path]

    def close(self) -> None:
        self.cache.close()
        self.telemetry.close()


@dataclass(frozen=True)
class _Asking:
    """What is open from the first question to the last row."""

    client: Answerer
    meter: Meter


class _Telemetry:
    """Latency and attempts of each row that was asked about, beside the stage's own lines, which are never sealed."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("ab", buffering=0)

    def write(self, asked: _Asked) -> None:
        row = {"event": "asked", "time": time.time(), "image_id": asked.image_id, "requests": asked.requests}
        with self._lock:
            self._file.write(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _rejected(image: ImageRecord, reason: str, detail: str, attempts: int = 1) -> Rejected:
    return Rejected(stage="caption", subject=image.image_id, reason=reason, detail=detail, attempts=max(1, attempts))
