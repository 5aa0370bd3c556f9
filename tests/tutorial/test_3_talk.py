"""3. Talking: rooms, playback, and a connection that is lost."""

import anyio
import pytest

import eventsched
from tests.outcomes import next_result
from tests.tutorial.test_1_produce import SILENCE


def interpreter() -> eventsched.Node:
    node = eventsched.Node("gpu-1", sources=["en", "es"], targets=["en", "es"], slots=4)

    @node.job
    async def translate(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"{job.source} to {job.target}", audio=bytes(640))

    return node


async def test_sessions_of_a_room_hear_each_other(url: str) -> None:
    node = interpreter()
    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with (
            es.session("acme", "en", room="lobby", listen_language="en") as ann,
            es.session("acme", "es", room="lobby", listen_language="es") as ben,
        ):
            await ann.append(SILENCE, end_of_utterance=True)
            result = await next_result(ben.results())
            assert (result.session, result.text) == (ann.id, "en to es")
            await ben.append(SILENCE, end_of_utterance=True)
            result = await next_result(ann.results())
            assert (result.session, result.text) == (ben.id, "es to en")
        node.drain()


async def test_a_pause_does_not_cut_a_speaker_who_is_listening(url: str) -> None:
    # Say when synthesised speech starts and ends to play: silence meanwhile is no pause.
    node = interpreter()
    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SILENCE, end_of_utterance=True)
            result = await next_result(session.results())
            assert result.audio
            await session.playback_started(result)
            await session.playback_ended(result)
        node.drain()


async def test_a_lost_producer_is_followed_by_another(url: str) -> None:
    node = interpreter()
    async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        async with es.session("acme", "en", ["es"]) as lost:
            await lost.append(SILENCE, end_of_utterance=True)
            await lost.append(SILENCE)
            last = await next_result(lost.results())

            # Another process, with the id and the secret of the session, within a minute.
            async with (
                eventsched.connect(url) as es2,
                es2.resume(lost.id, lost.resume_secret) as session,
            ):
                assert session.next_seq == 2  # so many chunks are stored: go on behind them
                await session.append(SILENCE, end_of_utterance=True)
                # Nothing is heard twice by who says where it was.
                result = await next_result(session.results(after=last))
                assert result.utterance == 1

                # The one before can no longer append.
                with pytest.raises(eventsched.SessionSuperseded):
                    await lost.append(SILENCE)
        node.drain()
