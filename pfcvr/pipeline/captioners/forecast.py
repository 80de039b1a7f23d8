"""What a captioning run will cost: an estimate before it, the measured figures after its first answers and live."""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pfcvr.config import ImageInputConfig
from pfcvr.pipeline.captioners.chat_reply import Reply
from pfcvr.pipeline.captioners.image_input import fitted_size, vision_tokens
from pfcvr.pipeline.captioners.prompt import Prompt
from pfcvr.records import ImageRecord
from pfcvr.wording import amount

CHARACTERS_PER_TOKEN = 4  # English text; only until servers have counted for us
LEAST_ANSWERS = 32


@dataclass(frozen=True)
class Estimate:
    """For ``images`` images, in tokens an image; ``answer`` is the most that the prompt allows."""

    images: int
    instruction: int
    vision: int
    answer: int

    def text(self) -> str:
        """One line for people."""
        prompt = self.instruction + self.vision
        return (
            f"{amount(self.images, 'image')} to ask about, about {self.images * prompt:,} prompt tokens "
            f"({prompt:,} an image, {self.vision:,} of them the picture) and at most {self.images * self.answer:,} "
            f"completion tokens ({self.answer:,} an image); hours follow after the first answers"
        )


def estimate(images: int, prompt: Prompt, sample: Iterable[ImageRecord], settings: ImageInputConfig) -> Estimate:
    """The cost of ``images`` images that are like those of ``sample``."""
    tokens = [vision_tokens(*fitted_size(image.width, image.height, settings)) for image in sample]
    schema = str(prompt.json_schema or "")
    characters = len(prompt.system) + len(prompt.user) + len(schema)
    vision = round(sum(tokens) / max(1, len(tokens)))
    return Estimate(images, round(characters / CHARACTERS_PER_TOKEN), vision, prompt.max_tokens)


class Meter:
    """Counts what servers answered and says what that makes for the rest. Used from several threads.

    ``images`` is how many are to be asked about. Once twice ``in_flight`` answers are in, so that the pipe is full, the
    measured forecast is handed to ``tell``.
    """

    def __init__(self, images: int, in_flight: int, tell: Callable[[str], None]) -> None:
        self._images, self._tell = images, tell
        self._first_look = max(LEAST_ANSWERS, 2 * in_flight)
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._answers = self._images_done = self._answers_of_done = 0
        self._prompt_tokens = self._completion_tokens = 0

    def answered(self, reply: Reply) -> None:
        """One more answer was paid for, good or bad."""
        with self._lock:
            self._answers += 1
            self._prompt_tokens += reply.prompt_tokens or 0
            self._completion_tokens += reply.completion_tokens or 0
            line = self._measured() if self._answers == self._first_look else None
        if line is not None:
            self._tell(line)

    def image_done(self, answers: int) -> None:
        """One more image needs no further answer; it took ``answers``."""
        with self._lock:
            self._images_done += 1
            self._answers_of_done += answers

    def live(self) -> str:
        """Tokens a second so far; empty before the first answer."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        if self._answers == 0:
            return ""
        return f"{self._prompt_tokens / seconds:,.0f} + {self._completion_tokens / seconds:,.0f} tokens/s"

    def _measured(self) -> str:
        rate = self._answers / max(time.monotonic() - self._started, 1e-9)
        prompt, completion = self._prompt_tokens / self._answers, self._completion_tokens / self._answers
        # Of finished images alone: answers about the others are in, and nobody knows yet how many more they need.
        per_image = self._answers_of_done / self._images_done if self._answers_of_done else 1.0
        left = max(0.0, self._images * per_image - self._answers)
        return (
            f"measured over {self._answers:,} answers: {prompt:,.0f} prompt and {completion:,.0f} completion tokens "
            f"each, {rate:,.1f} answers/s; about {left:,.0f} to go: {left * prompt:,.0f} + {left * completion:,.0f} "
            f"tokens, {left / rate / 3600:,.2f} hours"
        )


def tell_on_stderr(text: str) -> None:
    """A line beside the progress."""
    print(f"caption: {text}", file=sys.stderr, flush=True)
