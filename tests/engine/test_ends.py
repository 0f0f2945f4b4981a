"""What is left when something ends before its time: a lease, a lane, a drain."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from missive.adapters.contract import Capabilities, Delivery, Verb
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.settlement import Settler
from missive.messages import RawMessage


def test_a_mark_passes_what_was_let_go_of_behind_it():
    """A lane gives a message back while an earlier one runs; when that ends, the mark passes all before it."""

    async def main():
        settled, marks = [], []

        async def commit(given):
            marks.append(given[None].position)

        session = SimpleNamespace(capabilities=Capabilities(commit="cumulative"), commit=commit)
        source = SimpleNamespace(session=session)
        settler = Settler(source, Runtime(), settled=lambda source, jobs, not_ours: settled.extend(jobs))
        jobs = [Job(source, session, Delivery(b"", position=n), RawMessage(b"")) for n in range(3)]
        settler.started(session, jobs)
        jobs[2].verb = Verb.release
        for job in (jobs[1], jobs[2], jobs[0]):
            settler.add([job])
            await settler.flush()
        assert sorted(settled, key=jobs.index) == jobs
        assert marks[-1] == 1

    asyncio.run(main())
