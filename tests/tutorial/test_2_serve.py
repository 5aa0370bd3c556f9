"""2. Serving: a node turns utterances into text.

A node says what it can do and how many jobs it takes at a time. Each utterance becomes one job
per target language; the handler gets its audio and gives a Result.
"""

import time

import anyio

import eventsched
from eventsched.schema.keys import complete
from tests.outcomes import next_result
from tests.systems import is_registered, until
from tests.tutorial.test_1_produce import SILENCE


async def test_a_node_answers_and_the_session_hears_it(url: str) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=4)

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        pcm = await job.audio()  # with the silence that a recogniser wants behind the last word
        return eventsched.Result(source_text=f"{len(pcm)} bytes", text=f"{len(pcm)} octetos")

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SILENCE, end_of_utterance=True)
            async for outcome in session.results():
                assert isinstance(outcome, eventsched.Result)  # what else may come: see below
                assert (outcome.utterance, outcome.target) == (0, "es")
                assert outcome.source_text == "40960 bytes"
                break
        node.drain()  # finish what is in hand, take nothing new; `run` returns


async def test_plain_functions_run_in_threads(url: str) -> None:
    # CPU-bound work may also run in processes: @node.job(processes=True).
    node = eventsched.Node("cpu-1", sources=["en"], targets=["es"], slots=2)

    @node.job
    def translate(job: eventsched.BlockingJob) -> eventsched.Result:
        time.sleep(0.05)  # sleeps: the work of a model
        return eventsched.Result(text=f"{job.ms} ms")

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SILENCE, end_of_utterance=True)
            assert (await next_result(session.results())).text == "1000 ms"
        node.drain()


async def test_results_are_heard_in_the_order_of_speech(url: str) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=4)

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        await anyio.sleep(0.05 * (3 - job.utterance))  # sleeps: work; the last one is done first
        return eventsched.Result(text=str(job.utterance))

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            for _ in range(3):
                await session.append(SILENCE, end_of_utterance=True)
            await session.close()  # waits until every outcome has been delivered
            results = session.results()
            assert [(await next_result(results)).text for _ in range(3)] == ["0", "1", "2"]
            assert [outcome async for outcome in results] == []  # the session has ended
        node.drain()


async def test_a_job_may_send_partials_and_end_without_speech(url: str) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        if job.utterance:
            raise eventsched.NoSpeechError  # only noise; `return eventsched.NoSpeech()` does too
        await job.partial("ho")  # at once, to each listener that asked for partials
        await job.extend(60)  # more time than the lease gives
        return eventsched.Result(text="hola")

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SILENCE, end_of_utterance=True)
            await session.append(SILENCE, end_of_utterance=True)
            shown: list[tuple[str, str | None]] = []
            async for outcome in session.results(partials=True):
                match outcome:  # each outcome has a class with the fields that it needs
                    case eventsched.Result() | eventsched.Partial():
                        shown.append((outcome.outcome, outcome.text))
                    case eventsched.NoSpeech() | eventsched.Failed():
                        shown.append((outcome.outcome, outcome.code))
                    case eventsched.Missing() | eventsched.Truncated():
                        shown.append((outcome.outcome, None))
                if len(shown) == 3:
                    break
            assert shown == [("partial", "ho"), ("result", "hola"), ("no_speech", "ASR_EMPTY")]
        node.drain()


async def test_a_failed_attempt_goes_to_another_node(url: str) -> None:
    broken = eventsched.Node("a-broken", sources=["en"], targets=["es"], slots=4)
    sound = eventsched.Node("b-sound", sources=["en"], targets=["es"], slots=4)

    @broken.job
    async def give_up(job: eventsched.Job) -> eventsched.Result:
        tasks.start_soon(sound.run, es)
        await until("the other one serves", lambda: is_registered(es, full_id))
        raise eventsched.JobError("GPU_LOST", retryable=True)

    @sound.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"attempt {job.attempt}")

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        full_id = complete(sound.name, es.cells)
        tasks.start_soon(broken.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SILENCE, end_of_utterance=True)
            assert (await next_result(session.results())).text == "attempt 2"
        broken.drain()
        sound.drain()


async def test_a_job_knows_what_was_said_before(url: str) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    contexts: list[list[tuple[str, str | None]]] = []

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        contexts.append(job.context)
        return eventsched.Result(source_text="hello", text="hola")

    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            with anyio.fail_after(20):
                # The context is a read model: it may be a moment late, it is never waited for.
                while not (contexts and contexts[-1]):
                    await session.append(SILENCE, end_of_utterance=True)
                    await anext(session.results())
        node.drain()
    assert contexts[0] == []
    assert contexts[-1][0] == ("hello", "hola")
