"""The figures of a real service of two workers: what was sent, what the table says, and what a kill leaves."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledger.commands import CreateSession
from ops.opening.ledger import keyring_source, opened
from ops.settings.settings import read_settings
from projections.accounts.tokens import TokenIssuer
from tests.support.processes.services import Service
from tests.support.stores.servers import wait_until

PAGE = Path(__file__).parents[2] / "ops/docs/metrics.md"
USERS = [f"user{number}" for number in range(6)]
POLLS = 3
ROW = re.compile(r"^\| `(syncledger_\w+)` \| (\w+) \| (.*?) \| (service|ledger) \|", re.MULTILINE)
LABEL = re.compile(r"`(\w+)`")
ACK = "/api/sync/ack"


class Scene(NamedTuple):
    """A service that was used, with a key of its scraper, and what was sent to it."""

    service: Service
    key: str
    tokens: list[str]

    def scrape(self) -> dict[str, Any]:
        """Read all metrics by their names."""
        answer = httpx.get(f"{self.service.url}/metrics", headers={"authorization": f"Bearer {self.key}"})
        assert answer.status_code == 200, answer.text
        return {metric.name: metric for metric in text_string_to_metric_families(answer.text)}

    def value(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels."""
        family = re.sub(r"_(total|bucket|count|sum)$", "", name)
        samples = self.scrape()[family].samples
        return float(sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items()))

    def soon(self, name: str, expected: float, **labels: str) -> None:
        """Wait until a figure is as expected: workers hand theirs over once a second."""
        wait_until(lambda: self.value(name, **labels) == expected, f"{name} {labels} to be {expected}")


async def prepare(data_dir: Path) -> tuple[str, list[str]]:
    settings = read_settings({"LEDGER_DATA_DIR": str(data_dir)})
    tokens = TokenIssuer(keyring_source(settings))
    made = []
    async with opened(settings) as found:
        key, _ = await found.api_keys.create(["metrics.read"], name="prometheus", now_us=found.ledger.clock())
        for user in USERS:
            issued = tokens.issue(user, found.ledger.clock())
            await found.ledger.execute(user, issued.sid, CreateSession(user, user))
            made.append(issued.token)
    return key, made


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    data_dir = tmp_path_factory.mktemp("figures") / "data"
    with Service(data_dir, factory="ops.app:create_app", workers="2") as service:
        key, tokens = asyncio.run(prepare(data_dir))
        scene = Scene(service, key, tokens)
        for token in tokens:
            headers = {"authorization": f"Bearer {token}"}
            with httpx.Client(base_url=service.url, headers=headers) as client:  # a connection of its own
                for _ in range(POLLS):
                    lines = client.post("/api/sync/stream", json={"types": ["UsersV1"]}).text.splitlines()
                acks = re.findall(r'"ack":"([^"]+)"', "\n".join(lines))
                assert client.post(ACK, json={"acks": acks}).status_code == 204
                assert client.post(ACK, json={"acks": ["nonsense"]}).status_code == 400
                assert client.get("/api/nowhere").status_code == 404
        yield scene


def test_the_figures_are_what_was_sent_to_both_workers(scene: Scene) -> None:
    users = len(USERS)
    scene.soon("syncledger_http_requests_total", users, route=ACK, method="POST", status="204")
    scene.soon("syncledger_http_requests_total", users, route=ACK, status="400")
    scene.soon("syncledger_http_requests_total", users, route="other", method="other", status="404")
    scene.soon("syncledger_http_requests_total", users * POLLS, route="/api/sync/stream", status="200")
    scene.soon("syncledger_http_request_seconds_count", users * 2, route=ACK)
    scene.soon("syncledger_streams_total", users * POLLS, how="completed")
    scene.soon("syncledger_streams_open", 0)
    scene.soon("syncledger_stream_first_line_seconds_count", users * POLLS)
    scene.soon("syncledger_stream_rows_total", users * POLLS)  # each has its own user's row, until it is acknowledged
    scene.soon("syncledger_events_total", users, type="acks_recorded")
    scene.soon("syncledger_acks_total", users * 2, outcome="moved")
    scene.soon("syncledger_store_commands_in_flight", 0)
    scene.soon("syncledger_workers", 2)


def test_the_table_names_every_metric_with_its_labels(scene: Scene) -> None:
    """Also those that a dashboard or an alert names: test_prometheus.py compares them with the table."""
    table = {name: (kind, set(LABEL.findall(labels))) for name, kind, labels, _ in ROW.findall(PAGE.read_text())}
    found = scene.scrape()
    assert {name.removesuffix("_total"): kind for name, (kind, _) in table.items()} == {
        name: metric.type for name, metric in found.items()
    }
    for name, (_, labels) in table.items():
        for sample in found[name.removesuffix("_total")].samples:
            assert sample.labels.keys() - {"le"} == labels, name


def test_the_whole_ledger_is_counted(scene: Scene) -> None:
    wait_until(lambda: scene.value("syncledger_census_timestamp_seconds") > 0, "the first count")
    assert scene.value("syncledger_partitions", state="whole") == 256
    assert scene.value("syncledger_trouble") == 0


def test_a_killed_worker_is_told_and_what_it_counted_stays(scene: Scene) -> None:
    served = 2 * len(USERS)
    scene.soon("syncledger_http_requests_total", served, route=ACK)  # else what is not handed over yet dies with it
    victim = scene.service.workers[0]
    victim.send_signal(signal.SIGKILL)
    wait_until(lambda: len(scene.service.workers) == 2 and victim not in scene.service.workers, "another worker")
    scene.soon("syncledger_workers_ended_total", 1, how="lost")
    scene.soon("syncledger_workers", 2)
    assert scene.value("syncledger_http_requests_total", route=ACK) == served


def test_a_replacement_begins_at_nothing_once_and_from_then_on_counts_all(scene: Scene) -> None:
    """Also for a scraper that keeps its connection, which the service before answers once more."""
    key, headers = {"x-api-key": scene.key}, {"authorization": f"Bearer {scene.tokens[0]}"}
    asked = "syncledger_http_requests_total"
    with httpx.Client(base_url=scene.service.url) as scraper, httpx.Client(base_url=scene.service.url) as phone:

        def total() -> float:
            text = scraper.get("/metrics", headers=key).text
            lines = [line for line in text.splitlines() if line.startswith(asked) and ACK in line]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        seen = [total()]
        assert seen[0] >= 2 * len(USERS)
        scene.service.signal(signal.SIGHUP)
        wait_until(lambda: scene.service.said("msg=replaced"), "the replacement", 60)
        for _ in range(20):
            assert phone.get(ACK, headers=headers).status_code == 200
            seen.append(total())
        sent_to_new = 19.0  # the first one was answered on a connection that was there before
        wait_until(lambda: total() >= sent_to_new, "all to be counted")
        seen.append(total())
    falls = [number for number, (before, after) in enumerate(pairwise(seen)) if after < before]
    assert len(falls) == 1, seen
    assert seen[-1] in (sent_to_new, sent_to_new + 1), seen
