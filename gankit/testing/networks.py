"""Conformance checks of generators and discriminators."""

from __future__ import annotations

import copy
import math
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.networks import Generator
from gankit.core.models import stored_state
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.sampling.graphs import SamplingGraph, cause, export_program, noise_numbers, synthesize
from gankit.testing.common import (
    BATCH,
    C_DIM,
    Subject,
    assert_close,
    assert_finite,
    assert_keyed,
    condition,
    perturb,
    reload,
    seeded,
)

HALF_ERROR = 0.01  # largest mean square error of bfloat16, relative to the variance
PLAIN, CLASSES, TOKENS = CondSpec(), CondSpec(C_DIM), CondSpec(C_DIM, 6)


def _networks(
    subject: Subject, cond: CondSpec, *, disturbed: bool = True
) -> Iterator[tuple[tuple[int, int, int], Any]]:
    """Yield (shape, network) for every shape that the plugin accepts; skips the test if it takes no condition."""
    refusals = []
    for shape in subject.shapes:
        try:
            network = subject.build(shape, cond)
        except GankitError as error:
            if isinstance(error, contracts.ContractError) or str(error).startswith("no weights for "):
                raise
            refusals.append(str(error))
            continue
        yield shape, perturb(network) if disturbed else network
    if len(refusals) == len(subject.shapes):
        if cond != PLAIN:
            raise unittest.SkipTest(f"{subject} takes no condition: {refusals[0]}")
        raise AssertionError(f"{subject} refuses all of the shapes {subject.shapes}: {refusals[0]}")


def _network(subject: Subject, cond: CondSpec = PLAIN) -> tuple[tuple[int, int, int], Any]:
    return next(_networks(subject, cond))


def _latents(G: Generator, count: int = BATCH) -> Tensor:
    with seeded(3):
        return torch.randn(count, G.z_dim)


def random_images(shape: tuple[int, int, int], count: int = BATCH) -> Tensor:
    with seeded(4):
        return torch.rand(count, *shape) * 2 - 1


def _gradients(subject: Subject, network: nn.Module, output: Tensor) -> None:
    """Assert that every trained parameter gets a finite gradient, and that not all are zero."""
    with seeded(5):
        (output * torch.randn_like(output)).sum().backward()
    largest = 0.0
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{subject}: no gradient reaches the parameter {name}"
            assert_finite(parameter.grad, f"{subject}: the gradient of {name}")
            largest = max(largest, parameter.grad.abs().max().item())
    assert largest > 0, f"{subject}: all gradients are zero"


# ----------------------------------------------------------------------------------------------- generator


def check_generator_shapes(subject: Subject) -> None:
    """Outputs have the declared sizes, for square and rectangular images and any number of channels."""
    for shape, G in _networks(subject, PLAIN):
        z = _latents(G)
        with torch.no_grad():
            ws = G.mapping(z, None, update_emas=True)
            contracts.ws(G, ws, BATCH)
            contracts.ws(G, G.mapping(z, None, truncation_psi=0.5, truncation_cutoff=1), BATCH)
            for noise_mode in ("random", "const", "none"):
                images = G.synthesis(ws, None, noise_mode=noise_mode)
                contracts.drawn(G, images, (BATCH, *shape))
                assert_finite(images, f"{subject}: images with noise_mode={noise_mode!r}")


def check_generator_range(subject: Subject) -> None:
    """Images of the initial weights are in or around [-1, 1]."""
    for _, G in _networks(subject, PLAIN, disturbed=False):
        with torch.no_grad():
            contracts.image_range(G, G(_latents(G)))


def check_generator_gradients(subject: Subject) -> None:
    """Gradients reach every trained parameter, with and without a condition."""
    for cond in (PLAIN, CLASSES):
        _, G = _network(subject, cond)
        _gradients(subject, G, G.train()(_latents(G), condition(cond)))


def check_generator_deterministic(subject: Subject) -> None:
    """The same latents and constant noise give the same image, whatever else is in the batch."""
    _, G = _network(subject)
    G.eval()
    z = _latents(G)
    with torch.no_grad():
        images = G(z, noise_mode="const")
        assert torch.equal(G(z, noise_mode="const"), images), (
            f"{subject}: noise_mode='const' is not repeatable"
        )
        for row in range(BATCH):
            alone = G(z[row : row + 1], noise_mode="const")
            assert_close(alone, images[row : row + 1], f"{subject}: an image alone and in a batch")
        assert not torch.allclose(images[0], images[1]), f"{subject}: two latents give the same image"


def check_generator_half(subject: Subject) -> None:
    """In bfloat16, by ws or by autocast as its class says, images are float32 and equal up to rounding.

    Weights are the initial ones: perturbed ones amplify rounding, more so the deeper the network is.
    """
    _, G = next(_networks(subject, CLASSES, disturbed=False))
    G.eval()
    z, cond = _latents(G), condition(CLASSES)
    with torch.no_grad():
        ws = G.mapping(z, cond)
        images = synthesize(G, ws, cond, "const")
        try:
            half = synthesize(G, ws, cond, "const", "bf16")
        except Exception as error:
            how = "with ws in bfloat16 (follows_ws)" if G.follows_ws else "under torch.autocast"
            raise AssertionError(
                f"{subject}: synthesis {how} raises {type(error).__name__}: {error}"
            ) from None
        if G.follows_ws:
            own = G.synthesis(ws.bfloat16(), cond, noise_mode="const").dtype
            assert own == torch.float32, f"{subject}: images of ws in bfloat16 are {own}, not float32"
    assert_finite(half, f"{subject}: images in bfloat16")
    spread = (images - images.mean()).square().mean()
    lost = (half - images).square().mean() / spread
    assert lost < HALF_ERROR, f"{subject}: images in bfloat16 are off by {lost.sqrt():.1%} of their spread"


def check_generator_random(subject: Subject) -> None:
    """Noise comes from gankit's own random numbers and depends only on the image's place in the batch."""
    _, G = _network(subject)
    G.eval()
    z = _latents(G)
    with torch.no_grad():
        assert_keyed(lambda rows: G(z[rows], noise_mode="random"), f"{subject}: images with noise")


def check_generator_state(subject: Subject) -> None:
    """A deepcopy and a network restored from a checkpoint draw the same image."""
    shape, G = _network(subject)
    z = _latents(G)
    with torch.no_grad():
        G.train()(z, update_emas=True)  # buffers that follow training are part of the state
        G.eval()
        images = G(z, truncation_psi=0.7, noise_mode="const")
        others = {
            "deepcopy": copy.deepcopy(G),
            "state dict": reload(G, subject.build(shape, PLAIN, seed=7)).eval(),
        }
        for what, other in others.items():
            again = other(z, truncation_psi=0.7, noise_mode="const")
            assert_close(again, images, f"{subject}: images before and after {what}", 1e-6)


def check_generator_fading(subject: Subject) -> None:
    """fade_in(1) restores the network after fade_in(0.5), which changes nothing if it returns False."""
    _, G = _network(subject)
    z = _latents(G)
    with torch.no_grad():
        _check_fading(subject, G, lambda: G.eval()(z, noise_mode="const"))


def _check_fading(subject: Subject, network: Any, compute: Callable[[], Tensor]) -> None:
    full = compute()
    fades = network.fade_in(0.5)
    assert isinstance(fades, bool), f"{subject}: fade_in returns {fades!r}, not whether it can"
    assert torch.equal(compute(), full) is not fades, (
        f"{subject}: fade_in(0.5) returns {fades}, which is not so"
    )
    network.fade_in(1.0)
    assert torch.equal(compute(), full), f"{subject}: fade_in(1) does not give the network back"


def check_generator_condition(subject: Subject) -> None:
    """A condition changes the image; it may be given as a tensor."""
    _, G = _network(subject, CLASSES)
    G.eval()
    z, cond = _latents(G), condition(CLASSES)
    with torch.no_grad():
        images = G(z, cond, noise_mode="const")
        assert_close(G(z, cond.embedding, noise_mode="const"), images, f"{subject}: embedding and Condition")
        other = G(z, condition(CLASSES, seed=6), noise_mode="const")
        change = (images - other).abs().max().item()
        assert change > 1e-6 * images.abs().max().item(), (
            f"{subject}: the condition does not change the images"
        )


def check_generator_tokens(subject: Subject) -> None:
    """A condition may bring a sequence of tokens along, used or not."""
    _, G = _network(subject, TOKENS)
    with torch.no_grad():
        assert_finite(G(_latents(G), condition(TOKENS)), f"{subject}: images conditioned on tokens")


def check_generator_graph(subject: Subject) -> None:
    """torch.compile and torch.export make one graph of it, of torch's operators only, for a batch of any size."""
    spec = CLASSES if _takes(subject, CLASSES) else PLAIN
    _, G = min(_networks(subject, spec), key=lambda network: math.prod(network[0]))
    G.eval().requires_grad_(False)
    cond = condition(spec)
    inputs = {"z": _latents(G), "psi": torch.tensor(0.7)}
    if cond.embedding is not None:
        inputs["c"] = cond.embedding
    with torch.no_grad():
        graph = SamplingGraph(G).eval()
        try:
            images = torch.compile(graph, fullgraph=True, backend="eager")(**inputs)
        except Exception as error:  # with pages of torch's own log
            raise AssertionError(f"{subject}: {cause(error, 'torch.compile')}") from None
        finally:
            torch.compiler.reset()
        assert_close(images, graph(**inputs), f"{subject}: images of the compiled network")
        numbers = noise_numbers(G, G.mapping(inputs["z"], cond), cond)
        if numbers:
            with seeded(7):
                inputs["noise"] = torch.randn(BATCH, numbers)
        graph = SamplingGraph(G, "input" if numbers else "const").eval()
        try:
            program = export_program(graph, inputs)
        except GankitError as error:
            raise AssertionError(f"{subject}: {error}") from None
        given = {name: inputs[name] for name in program.graph_signature.user_inputs}
        for node in program.graph.nodes:
            known = not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace in (
                "aten",
                "prim",
            )
            assert known, f"{subject}: its exported graph needs the operator {node.target}"
        for rows in (slice(0, 1), slice(0, BATCH - 1)):
            some = {name: tensor[rows] if tensor.ndim else tensor for name, tensor in given.items()}
            every = {name: tensor[rows] if tensor.ndim else tensor for name, tensor in inputs.items()}
            assert_close(
                program.module()(**some), graph(**every), f"{subject}: images of the exported network"
            )


def _takes(subject: Subject, cond: CondSpec) -> bool:
    """True if the plugin accepts this kind of condition."""
    try:
        _network(subject, cond)
    except unittest.SkipTest:
        return False
    return True


# -------------------------------------------------------------------------------------------- discriminator


def check_discriminator_logits(subject: Subject) -> None:
    """Logits are a list of [B, N], the same by `forward` and by `score` of `features`."""
    for shape, D in _networks(subject, PLAIN):
        D.eval()
        with torch.no_grad():
            with batch_random("logits", total=BATCH):
                logits = D(random_images(shape))
            with batch_random("logits", total=BATCH):
                again = D.score(D.features(random_images(shape)))
        contracts.logits(D, logits, BATCH)
        for x, y in zip(logits, again, strict=True):
            assert_finite(x, f"{subject}: logits")
            assert_close(x, y, f"{subject}: forward, and score of features")


def check_discriminator_gradients(subject: Subject) -> None:
    """Gradients reach every trained parameter and every image."""
    for cond in (PLAIN, CLASSES):
        shape, D = _network(subject, cond)
        images = random_images(shape).requires_grad_(True)
        _gradients(subject, D, torch.cat(D.train()(images, condition(cond)), 1))
        assert images.grad is not None, f"{subject}: no gradient reaches the images"
        assert_finite(images.grad, f"{subject}: the gradient of the images")
        assert images.grad.abs().flatten(1).amax(1).min() > 0, f"{subject}: an image gets no gradient"


def check_discriminator_condition(subject: Subject) -> None:
    """The condition changes the logits, and one set of features can be scored several times."""
    shape, D = _network(subject, CLASSES)
    D.eval()
    one, two = condition(CLASSES), condition(CLASSES, seed=6)
    with torch.no_grad():
        features = D.features(random_images(shape))
        first, second = torch.cat(D.score(features, one), 1), torch.cat(D.score(features, two), 1)
        change = (first - second).abs().max().item()
        assert change > 1e-6 * first.abs().max().item(), (
            f"{subject}: the condition does not change the logits"
        )
        assert_close(
            torch.cat(D.score(features, one), 1), first, f"{subject}: scoring the same features again"
        )
        as_tensor = torch.cat(D.score(features, one.embedding), 1)
        assert_close(as_tensor, first, f"{subject}: embedding and Condition")


def check_discriminator_random(subject: Subject) -> None:
    """Random numbers are gankit's own; without batch statistics, logits depend on the image alone."""
    shape, D = _network(subject)
    D.eval()
    images = random_images(shape)
    with torch.no_grad():
        if D.batch_statistics:  # rows of a batch depend on each other, so it cannot be split
            before = torch.get_rng_state()
            with batch_random("logits", total=BATCH):
                D(images)
            assert torch.equal(before, torch.get_rng_state()), (
                f"{subject} draws random numbers from torch; use those of gankit.core.runtime.random"
            )
        else:
            assert_keyed(
                lambda rows: torch.cat(D(images[rows]), 1),
                f"{subject}, which names no batch_statistics: logits",
            )


def check_discriminator_fading(subject: Subject) -> None:
    """fade_in(1) restores the network after fade_in(0.5), which changes nothing if it returns False."""
    shape, D = _network(subject)
    images = random_images(shape)

    def compute() -> Tensor:
        with batch_random("logits", total=BATCH):
            return torch.cat(D.eval()(images), 1)

    with torch.no_grad():
        _check_fading(subject, D, compute)


def check_discriminator_state(subject: Subject) -> None:
    """The state survives a checkpoint, without frozen networks inside, which stay as they are."""
    shape, D = _network(subject)
    D.train()
    for name, network in stored_state.frozen_networks(D).items():
        assert not any(p.requires_grad for p in network.parameters()), f"{subject}: {name} is not frozen"
        assert not any(m.training for m in network.modules()), f"{subject}: {name} left eval mode"
        assert not any(k.startswith(f"{name}.") for k in stored_state.stored_state(D)), (
            f"{subject}: {name} is stored"
        )
    images = random_images(shape)
    with torch.no_grad():
        with batch_random("logits", total=BATCH):
            D(images)  # power iterations and running means move
        again = reload(D, subject.build(shape, PLAIN, seed=7))
        logits = []
        for each in (D, again):
            with batch_random("logits", total=BATCH):
                logits.append(torch.cat(each.eval()(images), 1))
    assert_close(logits[1], logits[0], f"{subject}: logits before and after a checkpoint", 1e-5)


CHECKS: dict[str, list[Any]] = {
    "generator": [
        check_generator_shapes,
        check_generator_range,
        check_generator_gradients,
        check_generator_deterministic,
        check_generator_half,
        check_generator_random,
        check_generator_state,
        check_generator_fading,
        check_generator_condition,
        check_generator_tokens,
        check_generator_graph,
    ],
    "discriminator": [
        check_discriminator_logits,
        check_discriminator_gradients,
        check_discriminator_condition,
        check_discriminator_random,
        check_discriminator_state,
        check_discriminator_fading,
    ],
}
