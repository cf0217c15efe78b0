"""Micro-batching: calls of more rows than a batch holds."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import make_models
import numpy as np
import pytest

import held
import inferlite
from conftest import BACKENDS
from held import busy, i64, stand
from inferlite import Batching
from inferlite.exceptions import ModelRunError

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)


@native
def test_a_call_of_more_rows_than_a_batch_holds_runs_by_itself() -> None:
    model = held.load(max_rows=2)

    async def ask() -> None:
        with ThreadPoolExecutor(4) as pool:
            async with busy(model):
                futures = await stand(model, pool, i64(0), i64(0, 1, 2), i64(1), i64(2))
            assert [future.result().tolist() for future in futures] == [[1.0], [1.0, 2.0, 3.0], [2.0], [3.0]]

    asyncio.run(ask())
    # The endless call, the first, the large one, and the last two together.
    assert model.stats().batching.sizes == {1: 2, 3: 1, 2: 1}
    assert model.stats().batching.retried == 0


@native
def test_a_large_call_has_the_bits_of_a_plain_model() -> None:
    plain = inferlite.load(make_models.path("mlp"))
    model = inferlite.load(make_models.path("mlp"), batching=Batching(max_rows=4))
    x = np.random.default_rng(0).standard_normal((37, plain.signature.inputs[0].shape[1]), np.float32)
    wanted = plain(x).tobytes()
    assert model(x).tobytes() == wanted

    async def ask() -> list[Any]:
        return await asyncio.gather(*(model.apredict(x) for _ in range(8)))

    assert [answer.tobytes() for answer in asyncio.run(ask())] == [wanted] * 8


@native
def test_pieces_of_a_large_call_come_back_in_order() -> None:
    model = inferlite.load(make_models.path("mlp"), batching=Batching(max_rows=4))
    x = np.random.default_rng(1).standard_normal((37, model.signature.inputs[0].shape[1]), np.float32)
    pieces = list(model.map(np.array_split(x, 10)))
    np.testing.assert_allclose(np.concatenate(pieces), model(x), rtol=1e-5, atol=1e-6)


@native
def test_a_large_call_that_fails_takes_nobody_along() -> None:
    model = held.load(max_rows=2)

    async def ask() -> None:
        with ThreadPoolExecutor(2) as pool:
            async with busy(model):
                futures = await stand(model, pool, i64(0, 7, 1), i64(2))
            with pytest.raises(ModelRunError, match="pick"):
                futures[0].result()
            assert futures[1].result().tolist() == [3.0]

    asyncio.run(ask())
    assert model.stats().batching.retried == 0
