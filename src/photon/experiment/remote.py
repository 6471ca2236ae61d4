"""The engine of a server whose clients train elsewhere, over any link."""

from __future__ import annotations

from collections.abc import Callable

from photon.chain.receipts import Outbox
from photon.config.resolve import Run
from photon.experiment.job import Job
from photon.machine.device import return_freed_memory
from photon.node.hosted_run import data_facts
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.server.depot import Depot
from photon.server.link import Link
from photon.server.remote import RemoteEngine
from photon.server.roster import Roster
from photon.wire.enrolment import Register
from photon.wire.transport import transport_of


def remote_engine(
    folder: RunFolder,
    run: Run,
    job: Job,
    link: Link,
    register: Register,
    hint: Callable[[], str] = str,
) -> RemoteEngine:
    """The engine over a link; the process trains nothing itself."""
    return_freed_memory()
    data = data_facts(RunData.of(*run.reading))
    depot, seal = depot_of(folder, run), job.engine.seal
    roster = Roster(link, register, job.say)
    engine = RemoteEngine(run, data, link, roster, depot, job.say, hint)
    engine.outbox = None if seal is None else Outbox(folder.path, seal.certificate)
    return engine


def depot_of(folder: RunFolder, run: Run) -> Depot:
    """Where the payloads of a run lie, with the transport that it asks for."""
    side = transport_of(run.machine.transport).server(run.machine, run.name)
    return Depot(folder.path / "depot", side)
