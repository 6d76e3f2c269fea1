"""The training loop: from a recipe and two splits to the best weights on val.

Everything random is a function of the seed and of the position in the run, and the position is
saved with the weights. A run that was interrupted therefore goes on exactly where it was.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from app.errors import UsageError
from app.inference.device import Compute
from app.train.auxiliary import CoarseScores
from app.train.datasets import LabelledImages
from app.train.distributed import ALONE, Processes, share_statistics
from app.train.loss import dice_loss, labelled_weight, logit_shift, summed_loss
from app.train.metrics import ConfusionMatrix
from app.train.optimization import averaged_weights, build_optimizer, learning_rate_factor
from app.train.progress import Progress
from app.train.recipes import Recipe
from app.train.run_folder import RunFolder
from app.train.samples import place
from app.train.stopping import (
    InterruptedRunError,
    leave_ctrl_c_to_the_main_process,
    stop_requested,
)
from app.train.transforms import AugmentedSamples, Pasting, Schedule, epoch_batches
from app.train.unreached_taps import zero_unreached_taps
from model import FCN, Card

_HOST_MEMORY: Final = "DefaultCPUAllocator"
"""In the message of a RuntimeError: the host has no memory left. torch has no type for it."""

SAVE_EVERY_S: Final = 600.0
"""Seconds between saved states within an epoch: what a killed process or machine may cost."""

Key = tuple[int, int]
"""(epoch, index): what a sample and its augmentation depend on, besides the seed."""


class Trainer:
    """One training run.

    Args:
        net: Network to train, on the CPU; it is moved to the device.
        recipe: How to train.
        train: Training split.
        val: Split on which the best weights are chosen.
        class_weights: Of the loss, C values.
        rare_classes: What the recipe's `pasting` lays over other photos.
        compute: Device and precision (`fp32` or `bf16`).
        folder: Where results go.
        card: Describes the network; validation figures are added when it is saved.
        seed: Of everything random.
        workers: Processes that read and augment, for each process of the run; 0 for none.
        processes: Those that share the run.
        compile: Whether torch compiles the trunk.
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
        processes: Processes = ALONE,
        compile: bool = False,
        rare_classes: tuple[int, ...] = (),
    ) -> None:
        self.recipe = recipe
        self.val = val
        self.compute = compute
        self.folder = folder
        self.card = card
        self.seed = seed
        self.workers = workers
        self.processes = processes
        self.net = net.to(compute.device).to(memory_format=torch.channels_last)
        self.class_weights = class_weights.to(compute.device)
        self.logit_shift = logit_shift(self.class_weights, recipe.logit_adjustment)
        if recipe.logit_adjustment:  # who trains on from the checkpoint has to undo it
            training = {**card.training, "logit_shift": self.logit_shift.tolist()}
            self.card = dataclasses.replace(card, training=training)
        self.averaged = averaged_weights(self.net, recipe.ema) if recipe.ema else None
        if compute.device.type == "cpu" and compute.precision == "bf16":
            zero_unreached_taps(self.net)
        if processes.count > 1:
            share_statistics(self.net, compute.device)
        if compile:
            self.net.trunk.compile()
        self.optimizer = build_optimizer(self.net, recipe)
        self._forward: nn.Module = self.net
        if processes.count > 1:
            # Dropout must differ between processes, but every start must be the same.
            torch.manual_seed(torch.initial_seed() + processes.rank)
            self._forward = DistributedDataParallel(self.net, broadcast_buffers=False)
        self.coarse = CoarseScores(self.net) if recipe.auxiliary else None
        self.photos_per_step = recipe.batch_size * recipe.accumulate
        self.steps_per_epoch = -(-len(train) // self.photos_per_step)
        limits = (recipe.epochs * self.steps_per_epoch, recipe.max_steps)
        self.steps = min(limit for limit in limits if limit)
        self.epochs = -(-self.steps // self.steps_per_epoch)
        pasting = Pasting(recipe.pasting, rare_classes) if recipe.pasting else None
        self.schedule = Schedule(recipe, self.epochs)
        self.samples = AugmentedSamples(train, self.schedule, seed, pasting)
        self.step = 0
        self.saved_step = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, Any]] = []
        self._mid_step = False
        self._saved_at = time.monotonic()

    @property
    def best(self) -> float:
        """Highest val mIoU so far; -1 before the first validation."""
        return max((score for _, score in self._scores()), default=-1.0)

    def _scores(self) -> Iterator[tuple[int, float]]:
        """Yield epoch and val mIoU of every validation."""
        for line in self.history:
            score = line.get("val", {}).get("mean_iu")
            if score is not None:
                yield line["epoch"], score

    @property
    def finished(self) -> bool:
        """Whether the recipe has come to its end, or nothing got better for long enough."""
        done = len(self.history)
        if done >= self.epochs or not self.recipe.patience:
            return done >= self.epochs
        if not done or "val" not in self.history[-1]:
            return False  # what came after the last validation may be better
        best_epoch = max(self._scores(), key=lambda pair: pair[1], default=(done, 0.0))[0]
        return done - best_epoch >= self.recipe.patience

    def run(self, progress: Progress) -> None:
        """Train until the recipe's end.

        Raises:
            InterruptedRunError: On Ctrl-C or SIGTERM, after the state was saved for `--resume`.
            FloatingPointError: If the loss is no longer finite; the message names the step.
        """
        with stop_requested(progress.say) as stop:
            try:
                while not self.finished:
                    epoch = len(self.history)
                    self._train_epoch(epoch, progress, stop)
                    self._finish_epoch(epoch, progress, stop)
            except RuntimeError as error:
                # A signal to the whole process group also ends the workers that this process
                # waits for, and the processes that share the run.
                if not stop.is_set():
                    raise
                if self.processes.count == 1 and not self._mid_step:
                    self._save_state()
                raise InterruptedRunError from error

    def _train_epoch(self, epoch: int, progress: Progress, stop: threading.Event) -> None:
        first = self.step - epoch * self.steps_per_epoch
        steps = epoch_batches(
            len(self.samples.dataset), self.photos_per_step, epoch=epoch, seed=self.seed
        )
        last = min(len(steps), self.steps - epoch * self.steps_per_epoch)
        shares = [share for keys in steps[first:last] for share in self._shares(keys)]
        loader = self._load(shares)
        started, waited = time.monotonic(), 0.0
        for position in range(first, last):
            asked = time.monotonic()
            batches = [next(loader) for _ in range(self.recipe.accumulate)]
            waited += time.monotonic() - asked
            self._mid_step = True
            loss, stop_now, save_now = self._train_step(batches, stop)
            if not math.isfinite(loss):
                self._refuse(loss, steps[position])
            self.loss_sum += loss
            self.step += 1
            self._mid_step = False
            elapsed = time.monotonic() - started
            progress.step(
                self.step,
                self.steps,
                loss=loss,
                images_per_second=(position + 1 - first) * self.photos_per_step / elapsed,
                waiting=waited / elapsed,
                learning_rate=self.learning_rate,
                work=(self._work(self.step), self._work(self.steps)),
            )
            if self.processes.count == 1:
                stop_now = stop.is_set()  # nobody else has to have heard it before the step
            if stop_now or save_now:
                self._save_state()
            if stop_now:
                raise InterruptedRunError

    def _work(self, steps: int) -> float:
        return self.schedule.work(steps / self.steps_per_epoch)

    def _shares(self, keys: list[Key]) -> list[list[Key]]:
        """Return the batches of a step, of each the part that is this process's."""
        size, processes = self.recipe.batch_size, self.processes
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        return [batch[processes.rank :: processes.count] for batch in batches]

    def _refuse(self, loss: float, keys: list[Key]) -> None:
        names = ", ".join(self.samples.dataset.names[index] for _, index in keys)
        raise FloatingPointError(
            f"the loss is {loss} at step {self.step + 1}, with {names}; "
            "try a lower --learning-rate, or --clip"
        )

    def _load(self, batches: Sequence[list[Key]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=self.compute.device.type == "cuda",
            # A generator of its own: the loader draws from it, and the global one belongs to
            # dropout, whose sequence must not depend on how often loaders were made.
            generator=torch.Generator(),
            worker_init_fn=leave_ctrl_c_to_the_main_process,
        )
        try:
            for photos, labels in loader:
                yield (
                    photos.to(self.compute.device, non_blocking=True),
                    labels.to(self.compute.device, torch.long, non_blocking=True),
                )
        except UsageError as error:
            if not self.workers:
                raise
            # From a worker it comes as text: a traceback, whose last line is `Class: message`.
            last_line = str(error).strip().splitlines()[-1]
            raise UsageError(last_line.partition(": ")[2]) from None

    def _train_step(
        self, batches: Sequence[tuple[Tensor, Tensor]], stop: threading.Event
    ) -> tuple[float, bool, bool]:
        """Take a step; return the loss, and whether all processes are to stop or to save."""
        self.net.train()
        self.set_learning_rate()
        weights = [labelled_weight(labels, self.class_weights) for _, labels in batches]
        weight = torch.stack(weights).sum()
        save = self.processes.is_main and time.monotonic() - self._saved_at > SAVE_EVERY_S
        flags = weight.new_tensor([stop.is_set(), save])
        agreed = self.processes.sum(torch.cat([weight[None], flags]))
        divisor = agreed[0].clamp_min(1e-6) if self.recipe.loss == "mean" else agreed.new_ones(())
        total = weight.new_zeros(())
        for number, (photos, labels) in enumerate(batches, start=1):
            with self._gradients_stay_here(number < len(batches)):
                with self._autocast():
                    logits = self._forward(photos.contiguous(memory_format=torch.channels_last))
                loss = self._loss(logits, labels, divisor)
                # Gradients are averaged over the processes; the loss is a sum over them.
                (loss * self.processes.count).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averaged:
            self.averaged.update_parameters(self.net)
        return self.processes.sum(total).item(), bool(agreed[1] > 0), bool(agreed[2] > 0)

    def _loss(self, logits: Tensor, labels: Tensor, divisor: Tensor) -> Tensor:
        """Return what a batch of one process adds to the loss of the step."""
        recipe = self.recipe
        smoothing = recipe.label_smoothing
        loss = summed_loss(logits, labels, self.class_weights, smoothing) / divisor
        if self.coarse:
            for coarse in self.coarse.take(*labels.shape[-2:]):
                added = summed_loss(coarse, labels, self.class_weights, smoothing) / divisor
                loss = loss + recipe.auxiliary * added
        if recipe.dice:
            # A ratio of sums: each batch of each process has its own, and they are averaged.
            share = recipe.dice / (recipe.accumulate * self.processes.count)
            loss = loss + share * dice_loss(logits, labels)
        return loss

    def _gradients_stay_here(self, stay: bool) -> Any:
        """Leave the exchange of gradients between processes to a step's last batch."""
        if stay and isinstance(self._forward, DistributedDataParallel):
            return self._forward.no_sync()
        return nullcontext()

    @property
    def learning_rate(self) -> float:
        """The rate of the last step, as for kernels outside of the trunk."""
        groups = self.optimizer.param_groups
        rate: float = next(group["lr"] for group in groups if group["rate"] == 1.0)
        return rate

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
            "learning_rate": self.learning_rate,
            "loss": self.loss_sum / (self.step - epoch * self.steps_per_epoch),
        }
        if (epoch + 1) % self.recipe.val_every == 0 or epoch + 1 == self.epochs:
            self._save_state()  # validation may take long and be stopped
            with self._adjusted() as net:
                confusion = self._validate(stop)
                line["val"] = confusion.metrics().to_json([info.name for info in self.card.classes])
                if (line["val"]["mean_iu"] or 0.0) > self.best and self.processes.is_main:
                    self.folder.save_best(net, self.card, line)
        self.loss_sum = 0.0
        self.history.append(line)
        # The state last: it says that everything before it is there.
        if self.processes.is_main:
            self.folder.save_history(self.history)
        self._save_state()
        progress.epoch(line, self.epochs, best=self.best)

    def _validate(self, stop: threading.Event) -> ConfusionMatrix:
        """Segment val, each process its share of the photos."""
        confusion = ConfusionMatrix(len(self.card.classes))
        for index in range(self.processes.rank, len(self.val), self.processes.count):
            confusion.update(self.val.label(index), self.predict(index))
            if stop.is_set():
                raise InterruptedRunError
        counts = torch.from_numpy(confusion.counts).to(self.compute.device)
        confusion.counts = self.processes.sum(counts).cpu().numpy()
        return confusion

    def weights_to_keep(self) -> FCN:
        """Return the network that is validated and saved, inside of `_adjusted`.

        It is the average if there is one.
        """
        net = self.averaged.module if self.averaged else self.net
        assert isinstance(net, FCN)
        return net

    @contextmanager
    def _adjusted(self) -> Iterator[FCN]:
        """Take the recipe's share of the class weights off the logits; training's come back."""
        net = self.weights_to_keep()
        bias = net.logit_bias.data
        before = bias.clone()
        bias.sub_(self.logit_shift)
        try:
            yield net
        finally:
            bias.copy_(before)

    def use_weights(self, net: FCN) -> None:
        """Put the weights of a checkpoint of this run in the place of the ones in training."""
        self.weights_to_keep().load_state_dict(net.state_dict())

    @torch.no_grad()
    def logits(self, index: int) -> Tensor:
        """Return the logits, CxHxW fp32 on the device, of whole photo `index` of val.

        Raises:
            UsageError: If there is too little memory for it.
        """
        net = self.weights_to_keep().eval()
        # HxWx3 in memory is channels-last already: permuting it costs nothing.
        photo = torch.from_numpy(self.val.photo(index)).to(self.compute.device).permute(2, 0, 1)
        try:
            with self._autocast():
                logits: Tensor = net(photo[None])[0]
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and _HOST_MEMORY not in str(error):
                raise
            height, width = photo.shape[-2:]
            raise UsageError(
                f"{place(self.val, index)}: too little memory for {width}x{height}: photos are "
                "validated on whole; lower --photo-scale, or shrink this one and its labels"
            ) from None
        return logits

    def predict(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the label map, HxW, of whole photo `index` of val."""
        prediction: np.ndarray[Any, np.dtype[np.uint8]] = (
            self.logits(index).argmax(0).to(torch.uint8).cpu().numpy()
        )
        return prediction

    def _save_state(self) -> None:
        state = self.state()
        if self.processes.is_main:
            self.folder.save_state(state)
        self.saved_step = self.step
        self._saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return everything that `load_state` needs to go on exactly; all processes must call."""
        cuda = self.compute.device.type == "cuda"
        random = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.compute.device) if cuda else None,
        }
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "net": self.net.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "random": self.processes.gather(random),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken.

        Raises:
            ValueError: If it was taken by another number of processes.
        """
        random = state["random"]
        if len(random) != self.processes.count:
            raise ValueError(f"the run has {len(random)} processes, not {self.processes.count}")
        self.step = self.saved_step = state["step"]
        self.loss_sum = state["loss_sum"]
        self.history = state["history"]
        self.net.load_state_dict(state["net"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        mine = random[self.processes.rank]
        torch.set_rng_state(mine["cpu"])
        if mine["cuda"] is not None and self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"], self.compute.device)
