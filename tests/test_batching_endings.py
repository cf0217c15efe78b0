"""Micro-batching: calls of more rows than a batch holds, and batches that everybody has left."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import make_models
import numpy as np
import pytest

import held
import inferlite
from conftest import BACKENDS
from held import ENDLESS, ONCE, busy, i64, in_line, rests, runs, stand
from inferlite import Batching
from inferlite._fallback.threads import available_threads
from inferlite.exceptions import ModelRunError

pytestmark = pytest.mark.usefixtures("backend")


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


def test_a_large_call_has_the_bits_of_a_plain_model() -> None:
    plain = inferlite.load(make_models.path("mlp"))
    model = inferlite.load(make_models.path("mlp"), batching=Batching(max_rows=4), rows_independent=True)
    x = np.random.default_rng(0).standard_normal((37, plain.signature.inputs[0].shape[1]), np.float32)
    wanted = plain(x).tobytes()
    assert model(x).tobytes() == wanted

    async def ask() -> list[Any]:
        return await asyncio.gather(*(model.apredict(x) for _ in range(8)))

    assert [answer.tobytes() for answer in asyncio.run(ask())] == [wanted] * 8


def test_pieces_of_a_large_call_come_back_in_order() -> None:
    model = inferlite.load(make_models.path("mlp"), batching=Batching(max_rows=4), rows_independent=True)
    x = np.random.default_rng(1).standard_normal((37, model.signature.inputs[0].shape[1]), np.float32)
    pieces = list(model.map(np.array_split(x, 10)))
    np.testing.assert_allclose(np.concatenate(pieces), model(x), rtol=1e-5, atol=1e-6)


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


def test_a_batch_that_all_have_left_ends() -> None:
    model = held.load(max_rows=8)

    async def ask() -> None:
        async with busy(model):
            tasks = [asyncio.ensure_future(model.apredict(x=i64(0), rounds=ENDLESS)) for _ in range(3)]
            await in_line(model, 3)
        await runs(model, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        # It would go on for ever.
        await rests(model)
        assert (await model.apredict(x=i64(1), rounds=ONCE)).tolist() == [2.0]

    asyncio.run(ask())
    assert model.stats().batching.retried == 0


@pytest.mark.skipif(available_threads() < 2, reason="the busy one has the one thread that there is")
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
def test_a_batch_of_rows_to_be_kept_ends_when_all_have_left() -> None:
    model = held.load(cache=inferlite.Cache(max_bytes="1MB", by="row"), max_rows=8)

    async def ask() -> None:
        async with busy(model):
            # Each takes a thread that waits, of which there are as many as processors: the busy one has another.
            task = asyncio.ensure_future(model.apredict(x=i64(0, 1), rounds=ENDLESS))
            await in_line(model, 1)
        await runs(model, 2)
        task.cancel()
        await asyncio.wait([task])
        await rests(model)
        assert (await model.apredict(x=i64(1, 2), rounds=ONCE)).tolist() == [2.0, 3.0]

    asyncio.run(ask())
    assert model.stats().batching.retried == 0
    assert model.stats().cache.entries == 2


def test_a_batch_of_futures_and_tasks_ends_when_all_are_cancelled() -> None:
    model = held.load(max_rows=8)

    async def ask() -> None:
        async with busy(model):
            task = asyncio.ensure_future(model.apredict(x=i64(0), rounds=ENDLESS))
            await in_line(model, 1)
            futures = [model.submit(x=i64(row), rounds=ENDLESS) for row in range(2)]
            await in_line(model, 3)
        await runs(model, 3)
        task.cancel()
        assert [future.cancel() for future in futures] == [True, True]
        await rests(model)

    asyncio.run(ask())
    assert model.stats().batching.retried == 0


def test_one_who_stays_keeps_the_batch_going() -> None:
    # Long enough that nobody who is watched for leaving could be overlooked, and over by itself.
    model = held.load(max_rows=8)
    many = np.array(200_000, np.int64)

    async def ask() -> None:
        async with busy(model):
            tasks = [asyncio.ensure_future(model.apredict(x=i64(i), rounds=many)) for i in range(3)]
            await in_line(model, 3)
        for task in tasks[:2]:
            task.cancel()
        for task in tasks[:2]:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert (await tasks[2]).tolist() == [3.0]

    asyncio.run(ask())
    assert model.stats().batching.retried == 0


def test_closing_a_model_whose_batch_runs_for_nobody_leaves_no_run() -> None:
    model = held.load(max_rows=8)

    async def ask() -> None:
        async with busy(model):
            tasks = [asyncio.ensure_future(model.apredict(x=i64(0), rounds=ENDLESS)) for _ in range(2)]
            await in_line(model, 2)
        await runs(model, 2)
        model.close(cancel=True)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in ended] == [asyncio.CancelledError] * 2

    asyncio.run(ask())
