"""A vision-language model of Transformers in this process, asked by the same chat requests as a server."""

import base64
import json
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pfcvr.errors import CheckpointError, PfcvrError, StageStopped, first_line
from pfcvr.pipeline.captioners.chat_client import Answered, Keep, forget
from pfcvr.pipeline.captioners.chat_reply import Reply
from pfcvr.pipeline.captioners.judge import json_in
from pfcvr.pipeline.inference import Inference
from pfcvr.pipeline.weights import load_model, load_processor

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = ("presence_penalty", "frequency_penalty")
SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty")
NO_TOP_K = 0  # Transformers would take 50 where nothing is said


class LocalModel:
    """``ask`` may be called from several threads; one answer is made at a time.

    Raises CheckpointError when ``folder`` holds no model that takes pictures and text, or no processor for it.
    """

    def __init__(self, folder: Path, inference: Inference, revision: str) -> None:
        self._folder, self._inference, self._revision = folder, inference, revision
        self._processor = load_processor("AutoProcessor", folder)
        if getattr(self._processor, "image_processor", None) is None or not self._processor.chat_template:
            raise CheckpointError(
                f"{folder}: its processor takes no pictures or has no chat template; give an instruction-tuned "
                "vision-language model"
            )
        self._network = inference.place(load_model("AutoModelForImageTextToText", folder, (), inference.precision))
        ends = self._network.generation_config.eos_token_id
        self._ends = ends if isinstance(ends, list) else [ends]
        self._one_at_a_time = threading.Lock()
        self._stopped: PfcvrError | None = None

    def ask(self, body: bytes, keep: Keep = forget) -> Answered:
        """The answer to a chat completions request, given to ``keep`` at once.

        Raises StageStopped once it is stopped or memory is short.
        """
        import torch

        request = json.loads(body)
        with self._one_at_a_time:
            if self._stopped is not None:
                raise self._stopped
            began = time.monotonic()
            try:
                reply = self._answer(request)
            except torch.OutOfMemoryError as error:
                raise StageStopped(
                    f"{self._folder}: the GPU has too little memory for it ({first_line(error)}); "
                    "use a smaller model, --device cpu, or a vLLM server"
                ) from None
            if self._stopped is not None:
                raise self._stopped
            keep(reply)
            return Answered(reply, 1, time.monotonic() - began)

    def live(self) -> str:
        return f"on {self._inference.device}"

    def stop(self, error: PfcvrError) -> None:
        """End the answer under way, and all to come, with ``error``; the first error stays."""
        self._stopped = self._stopped or error

    def close(self) -> None:
        """Memory is freed with the object."""

    def _answer(self, request: dict[str, Any]) -> Reply:
        import torch

        inputs = self._inputs(request["messages"])
        prompt_tokens = inputs["input_ids"].shape[1]
        gpus = [torch.cuda.current_device()] if self._inference.device == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(request["seed"])
            output = self._network.generate(
                **inputs,
                generation_config=self._generation_config(request),
                logits_processor=[_Penalties(prompt_tokens, *(request.get(name, 0.0) for name in PENALTIES))],
                stopping_criteria=[self._give_up],
            )
        answer = output[0, prompt_tokens:].tolist()
        text = self._processor.decode(answer, skip_special_tokens=True)
        return Reply(
            text=json_in(text) if "response_format" in request else text,
            finish_reason="stop" if answer and answer[-1] in self._ends else "length",
            model=self._revision,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(answer),
        )

    def _inputs(self, messages: list[dict[str, Any]]) -> Any:
        """The tensors of one request; raises CheckpointError where its picture does not reach the model."""
        import torch

        inputs = self._processor.apply_chat_template(
            [{"role": message["role"], "content": _content(message["content"])} for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        if "pixel_values" not in inputs:
            raise CheckpointError(
                f"{self._folder}: the picture does not reach the model; give a vision-language model with a "
                "processor of its own"
            )
        return inputs.to(self._inference.device, dtype=getattr(torch, self._inference.precision))

    def _generation_config(self, request: dict[str, Any]) -> Any:
        """Answers are drawn as ``request`` says, whatever defaults the model has."""
        from transformers import GenerationConfig

        own = self._network.generation_config
        ends = {"eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id}
        temperature = request.get("temperature", 1.0)
        if temperature == 0:
            return GenerationConfig(do_sample=False, max_new_tokens=request["max_tokens"], **ends)
        drawn = {"top_k": NO_TOP_K} | {name: request[name] for name in SAMPLING if name in request}
        return GenerationConfig(
            do_sample=True, temperature=temperature, max_new_tokens=request["max_tokens"], **drawn, **ends
        )

    def _give_up(self, input_ids: "Tensor", scores: Any) -> "Tensor":
        import torch

        return torch.full((input_ids.shape[0],), self._stopped is not None, device=input_ids.device)


class _Penalties:
    """OpenAI's presence and frequency penalties, which Transformers lacks: of tokens in the answer so far."""

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self._prompt_tokens, self._presence, self._frequency = prompt_tokens, presence, frequency

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """``scores`` [batch, vocabulary] less ``presence`` + ``frequency`` x count for tokens that were written."""
        import torch

        answer = input_ids[:, self._prompt_tokens :]
        counts = torch.zeros_like(scores).scatter_add_(1, answer, torch.ones_like(answer, dtype=scores.dtype))
        return scores - self._presence * (counts > 0) - self._frequency * counts


def _content(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A message's content as processors take it, its data URLs as pictures."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image", "image": _picture(item["image_url"]["url"])} if item["type"] == "image_url" else item
        for item in content
    ]


def _picture(url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
