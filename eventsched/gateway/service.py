"""What the routes of one gateway share.

Owns: the client, the source of history, the authenticator, the count of open sockets, the order to
stop. Never does: serve a route. Read next: app.py, routes.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio

from eventsched.archive.layout import ArchiveFolder
from eventsched.client.client import Client
from eventsched.gateway.authentication import Authenticator
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.console_files import read_console
from eventsched.gateway.detector_threads import DetectorThreads
from eventsched.gateway.event_feed import EventFeed
from eventsched.gateway.event_view import EventViews
from eventsched.gateway.login_codes import LoginCodes
from eventsched.gateway.logins import Logins
from eventsched.gateway.read_limit import ReadLimit
from eventsched.gateway.readiness import find_problem
from eventsched.gateway.reading_cache import ReadingCache
from eventsched.gateway.rebuilds import Rebuilds
from eventsched.gateway.tenant_shares import TenantShares, TooManyDetectors, TooManyStreams
from eventsched.gateway.tenant_turns import TenantTurns
from eventsched.history.node_status import RecentClasses
from eventsched.history.reader import Reader
from eventsched.history.session_tenants import SessionTenants
from eventsched.history.source import HistorySource
from eventsched.history.status import read_status
from eventsched.projection.installed import load_sets
from eventsched.store.connection import Connection
from eventsched.tokens.key_source import KeySource
from eventsched.tokens.verify import Verifier

CATCH_UPS_MAX = 8
"""Streams of one tenant that catch up at the same time; others wait."""


async def _read_metrics(connection: Connection) -> bytes:
    """Import what the extra `telemetry` installs at the first scrape only."""
    from eventsched.telemetry.cell_metrics import cell_metrics

    return await cell_metrics(connection)


class Gateway:
    """One gateway: its connection to the server, and what its routes share."""

    def __init__(self, config: GatewayConfig, connection: Connection, client: Client) -> None:
        self.config = config
        self.connection = connection
        self.client = client
        self.logins = Logins(config.base_path)
        self.authenticator = Authenticator(Verifier(KeySource(config.token_keys)), self.logins)
        self.codes = LoginCodes()
        self.problem = ReadingCache(partial(find_problem, connection))
        """Why a call of the server would fail; empty if calls succeed."""
        self._classes = RecentClasses()
        self.status = ReadingCache(partial(read_status, connection, self._classes))
        """The status of all cells: viewers of the console ask every two seconds, and share it."""
        self.cell_metrics = ReadingCache(partial(_read_metrics, connection))
        """The metrics of all cells, in the text format of Prometheus."""
        self.reads = ReadLimit()
        self.detector_threads = DetectorThreads(os.cpu_count() or 1)
        self.detectors = TenantShares(
            config.endpointing_max,
            TooManyDetectors,
            what="sockets with endpointing",
            remedy="open without endpointing and send finalize, or try another gateway",
        )
        self.tenants = SessionTenants()
        """The tenants of sessions, for all readers."""
        self.archive = ArchiveFolder.open(config.archive) if config.archive else None
        self._sets = load_sets()
        self.read_models = [part.name for each in self._sets for part in each.projections]
        self.rebuilds = Rebuilds(connection.url, str(config.archive or ""))
        self.feeds = {
            cell: EventFeed(cell, self.history_source(), self.tenants) for cell in connection.stores
        }
        """The shared reader of new events, by cell."""
        self.views = EventViews(self.feeds)
        """What the streams of events show."""
        self.streams = TenantShares(
            config.streams_max,
            TooManyStreams,
            what="streams of events",
            remedy="close some, or try another gateway",
        )
        self.catch_ups = TenantTurns(CATCH_UPS_MAX)
        """The streams that read events from before their start."""
        self.stopping = anyio.Event()
        """Set when the gateway ends: streams and sockets end, and their clients come again."""
        self.is_verifying = False
        """Whether a verification of the archive runs."""
        self.reports = anyio.Semaphore(1)
        """A report of a session is written by one process at a time."""
        self.reporting = TenantTurns(1)
        """One report of a tenant waits with those of other tenants."""
        self.pictures = anyio.CapacityLimiter(1)
        """Pictures are drawn by one thread at a time: each waits for the event loop's turn, and the
        event loop for a turn of each."""
        self.drawing = TenantTurns(1)
        """One picture of a tenant waits with those of other tenants."""
        self.sockets = 0
        self.console = read_console()
        """The files of the console by path; empty without a build."""
        self.url = ""
        """Where the gateway listens, with its base path."""

    def forget_status(self) -> None:
        """Let the next request read the status anew, with the nodes of all cells."""
        self._classes.forget()
        self.status.forget()

    def history_source(self) -> HistorySource:
        """Return the history of the log and the archive. Use a new one for every request."""
        return HistorySource(self.connection, self.archive, self._sets)

    def reader(self, source: HistorySource) -> Reader:
        """Return a reader of a source, which shares what the gateway knows of sessions."""
        return Reader(source, tenants=self.tenants)

    @contextmanager
    def counted_socket(self) -> Iterator[None]:
        """Count a socket or stream while the block runs."""
        self.sockets += 1
        try:
            yield
        finally:
            self.sockets -= 1
