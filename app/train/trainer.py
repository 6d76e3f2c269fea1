"""The training loop: from a recipe and two splits to the best weights on val.

Everything random is a function of the seed and of the position in the run, and the position is
saved with the weights. A run that was interrupted therefore goes on exactly where it was.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from app.errors import UsageError
from app.inference.device import Compute
from app.train.datasets import LabelledImages
from app.train.metrics import ConfusionMatrix
from app.train.progress import Progress
from app.train.recipes import Recipe
from app.train.run_folder import RunFolder
from app.train.transforms import AugmentedSamples, epoch_batches, training_transform
from model import FCN, VOID, Card

LEARNING_RATE_FLOOR: Final = 1e-3
"""Learning rate at the end, as a share of its peak."""


class InterruptedRunError(Exception):
    """The user stopped the run; its state is saved."""


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Return the learning rate at `step` of `steps` as a share of its peak.

    It rises linearly during the first `warmup` of the steps and then falls as a half cosine, or
    stays, with the `constant` schedule.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(1, steps - rising)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return LEARNING_RATE_FLOOR + (1 - LEARNING_RATE_FLOOR) * cosine


def balanced_weights(pixels: np.ndarray[Any, np.dtype[np.int64]], constant: float) -> Tensor:
    """Return the ENet paper's class weights 1 / ln(c + frequency), scaled to a mean of 1.

    Args:
        pixels: Labelled pixels of each class, C values.
        constant: c, above 1; 0 gives equal weights.
    """
    if constant == 0:
        return torch.ones(len(pixels))
    weights = 1 / np.log(constant + pixels / max(1, pixels.sum()))
    return torch.from_numpy(weights / weights.mean()).float()


def segmentation_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, reduction: str = "mean"
) -> Tensor:
    """Return the cross-entropy over labelled pixels, each weighted by its class.

    Args:
        logits: BxCxHxW.
        labels: BxHxW, integer; 255 is void and counts nowhere.
        weights: C values.
        reduction: `mean` or, as in the authors' nets, `sum`.

    Returns:
        A scalar; 0 where all of the batch is void, since then there is nothing to learn.
    """
    total = F.cross_entropy(logits, labels, weights, ignore_index=VOID, reduction="sum")
    if reduction == "sum":
        return total
    return total / weights[labels[labels != VOID]].sum().clamp_min(1e-6)


class Trainer:
    """One training run.

    Args:
        net: Network to train, on the CPU; it is moved to the device.
        recipe: How to train.
        train: Training split.
        val: Split on which the best weights are chosen.
        class_weights: Of the loss, C values.
        compute: Device and precision (`fp32` or `bf16`).
        folder: Where results go.
        card: Describes the network; validation figures are added when it is saved.
        seed: Of everything random.
        workers: Processes that read and augment; 0 for none.
    """

    def __init__(
        self,
        net: FCN,
        recipe: Recipe,
        train: LabelledImages,
        val: LabelledImages,
        *,
        class_weights: Tensor,
        compute: Compute,
        folder: RunFolder,
        card: Card,
        seed: int,
        workers: int,
    ) -> None:
        self.recipe = recipe
        self.val = val
        self.compute = compute
        self.folder = folder
        self.card = card
        self.seed = seed
        self.workers = workers
        self.net = net.to(compute.device).to(memory_format=torch.channels_last)
        self.class_weights = class_weights.to(compute.device)
        self.optimizer = _optimizer(self.net, recipe)
        self.averaged = (
            AveragedModel(self.net, multi_avg_fn=_ema(recipe.ema), use_buffers=True)
            if recipe.ema
            else None
        )
        transform = training_transform(
            recipe.crop, recipe.scale, color_jitter=recipe.color_jitter, flip=recipe.flip
        )
        self.samples = AugmentedSamples(train, transform, seed)
        self.steps_per_epoch = -(-len(train) // recipe.batch_size)
        limits = (recipe.epochs * self.steps_per_epoch, recipe.max_steps)
        self.steps = min(limit for limit in limits if limit)
        self.epochs = -(-self.steps // self.steps_per_epoch)
        self.step = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, Any]] = []

    @property
    def best(self) -> float:
        """Highest val mIoU so far; -1 before the first validation."""
        scores = [line["val"]["mean_iu"] for line in self.history if "val" in line]
        return max((score for score in scores if score is not None), default=-1.0)

    def run(self, progress: Progress) -> None:
        """Train until the recipe's end.

        Raises:
            InterruptedRunError: On Ctrl-C or SIGTERM, after the state was saved for `--resume`.
            FloatingPointError: If the loss is no longer finite; the message names the step.
        """
        with _stop_requested(progress.say) as stop:
            for epoch in range(len(self.history), self.epochs):
                self._train_epoch(epoch, progress, stop)
                self._finish_epoch(epoch, progress, stop)

    def _train_epoch(self, epoch: int, progress: Progress, stop: threading.Event) -> None:
        started = self.step
        first = self.step - epoch * self.steps_per_epoch
        batches = epoch_batches(
            len(self.samples.dataset), self.recipe.batch_size, epoch=epoch, seed=self.seed
        )
        last = min(len(batches), self.steps - epoch * self.steps_per_epoch)
        clock = time.monotonic()
        for photos, labels in self._load(batches[first:last]):
            loss = self._train_step(photos, labels)
            if not math.isfinite(loss):
                names = ", ".join(
                    self.samples.dataset.names[index]
                    for _, index in batches[self.step - epoch * self.steps_per_epoch]
                )
                raise FloatingPointError(
                    f"the loss is {loss} at step {self.step + 1}, with {names}; "
                    "try a lower --learning-rate"
                )
            self.loss_sum += loss
            self.step += 1
            done = self.step - started
            progress.step(
                self.step,
                self.steps,
                loss=loss,
                images_per_second=done * self.recipe.batch_size / (time.monotonic() - clock),
            )
            if stop.is_set():
                self.folder.save_state(self.state())
                raise InterruptedRunError

    def _load(self, batches: Sequence[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=self.compute.device.type == "cuda",
            # A generator of its own: the loader draws from it, and the global one belongs to
            # dropout, whose sequence must not depend on how often loaders were made.
            generator=torch.Generator(),
            worker_init_fn=_leave_ctrl_c_to_the_main_process,
        )
        try:
            for photos, labels in loader:
                yield (
                    photos.to(self.compute.device, non_blocking=True),
                    labels.to(self.compute.device, torch.long, non_blocking=True),
                )
        except UsageError as error:
            # From a worker it comes as text, with a traceback above the message.
            message = str(error).strip().splitlines()[-1]
            raise UsageError(
                message.removeprefix(f"{UsageError.__module__}.UsageError: ")
            ) from None

    def _train_step(self, photos: Tensor, labels: Tensor) -> float:
        self.net.train()
        self.set_learning_rate()
        with self._autocast():
            logits = self.net(photos.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits, labels, self.class_weights, self.recipe.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averaged:
            self.averaged.update_parameters(self.net)
        return loss.item()

    def set_learning_rate(self) -> None:
        """Give every group of parameters the rate of the step that comes next."""
        recipe = self.recipe
        factor = learning_rate_factor(self.step, self.steps, recipe.warmup, recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor * group["rate"]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.compute.device.type, torch.bfloat16, enabled=self.compute.precision == "bf16"
        )

    def _finish_epoch(self, epoch: int, progress: Progress, stop: threading.Event) -> None:
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": self.loss_sum / (self.step - epoch * self.steps_per_epoch),
        }
        if (epoch + 1) % self.recipe.val_every == 0 or epoch + 1 == self.epochs:
            self.folder.save_state(self.state())  # validation may take long and be stopped
            confusion = ConfusionMatrix(len(self.card.classes))
            for index in range(len(self.val)):
                confusion.update(self.val.label(index), self.predict(index))
                if stop.is_set():
                    raise InterruptedRunError
            line["val"] = confusion.metrics().to_json([info.name for info in self.card.classes])
            if (line["val"]["mean_iu"] or 0.0) > self.best:
                self.folder.save_best(self.weights_to_keep(), self.card, line)
        self.loss_sum = 0.0
        self.history.append(line)
        # The state last: it says that everything before it is there.
        self.folder.save_history(self.history)
        self.folder.save_state(self.state())
        progress.epoch(line, self.epochs, best=self.best)

    def weights_to_keep(self) -> FCN:
        """Return the network that is validated and saved: the average if there is one."""
        net = self.averaged.module if self.averaged else self.net
        assert isinstance(net, FCN)
        return net

    def use_weights(self, net: FCN) -> None:
        """Put the weights of a checkpoint of this run in the place of the ones in training."""
        self.weights_to_keep().load_state_dict(net.state_dict())

    @torch.no_grad()
    def predict(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the label map, HxW, of whole photo `index` of val."""
        net = self.weights_to_keep().eval()
        # HxWx3 in memory is channels-last already: permuting it costs nothing.
        photo = torch.from_numpy(self.val.photo(index)).to(self.compute.device).permute(2, 0, 1)
        with self._autocast():
            logits = net(photo[None])
        prediction: np.ndarray[Any, np.dtype[np.uint8]] = (
            logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        )
        return prediction

    def state(self) -> dict[str, Any]:
        """Return everything that `load_state` needs to go on exactly."""
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "net": self.net.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": (
                torch.cuda.get_rng_state(self.compute.device)
                if self.compute.device.type == "cuda"
                else None
            ),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.step = state["step"]
        self.loss_sum = state["loss_sum"]
        self.history = state["history"]
        self.net.load_state_dict(state["net"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.compute.device)


def _ema(decay: float) -> Callable[..., None]:
    """Return torch's exponential moving average, which comes without types."""
    average: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return average


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser, with weight decay on kernels alone.

    Decay on a norm's scale or a bias regularises nothing; it only fights the statistics.
    """
    kernels = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": recipe.weight_decay, "rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate": recipe.bias_rate},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True
        )
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """Ignore SIGINT, which a terminal sends to workers too.

    SIGTERM keeps its effect: it is how the main process ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _stop_requested(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once.

    A step is never cut in half: its state would be neither the old nor the new one.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        say("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
