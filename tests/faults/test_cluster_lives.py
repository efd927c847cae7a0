"""A service on a cluster of three primaries and three replicas that goes through all that clusters go through.

Phones sign in further sessions, end them and acknowledge all the while. What was answered is counted: with
LEDGER_DURABILITY=replica and as many replicas as may take over (one each), no session that was answered is lost and
none that was ended lives again. Nobody is told 401 or 500, each 503 says when to come again, no request takes more than
five seconds, and nothing of the service is started anew but the worker that was killed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from ledger.acks import Ack, format_ack
from ledger.positions import Position
from tests.support.processes.running import RunningService
from tests.support.stores.replicated import binary_of
from tests.support.stores.replicated_cluster import ReplicatedCluster
from tests.support.stores.servers import wait_until

PHONES = 6
KEPT = 5
"""How many further sessions a phone keeps; older ones it ends."""
LONGEST_S = 5.0
FIRST_US = 1_500_000_000_000_000


class Phone:
    """One user's device that makes sessions, ends them and acknowledges, and knows what was answered."""

    def __init__(self, url: str, token: str) -> None:
        self._token = token
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )
        self.made: list[str] = []
        self.ended: set[str] = set()
        self.unknown: set[str] = set()
        self.acked = 0
        self.done = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.longest_s = 0.0

    def ask(self, method: str, path: str, **sent: object) -> httpx.Response | None:
        """Send a request; None if its connection was lost, as with a worker that is killed."""
        began_s = time.monotonic()
        try:
            answer = self._client.request(method, path, **sent)  # type: ignore[arg-type]
        except httpx.TransportError:
            return None
        took_s = time.monotonic() - began_s
        self.longest_s = max(self.longest_s, took_s)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 503 and int(answer.headers.get("retry-after", 0)) < 1:
            self.wrong.append(f"{method} {path}: 503 without Retry-After")
        if answer.status_code in (401, 500):
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    def turn(self) -> None:
        """Make a session, end one that is too many, and acknowledge."""
        answer = self.ask("POST", "/api/sessions", json={})
        if answer is not None and answer.status_code == 201:
            self.made.append(answer.json()["id"])
            self.done += 1
        living = [sid for sid in self.made if sid not in self.ended | self.unknown]
        if len(living) > KEPT:
            answer = self.ask("DELETE", f"/api/sessions/{living[0]}")
            if answer is not None and answer.status_code == 204:
                self.ended.add(living[0])
            else:  # it may have ended, or end yet
                self.unknown.add(living[0])
        self.ask("POST", "/api/sync/stream", json={"types": ["UserMetadataV1"]})
        ack = format_ack(Ack("UserMetadataV1", Position(FIRST_US + self.acked + 1, ""), 1))
        answer = self.ask("POST", "/api/sync/ack", json={"acks": [ack]})
        self.acked += answer is not None and answer.status_code == 204

    def living(self) -> set[str]:
        """The sessions that the service lists."""
        answer = self._client.get("/api/sessions")
        assert answer.status_code == 200, answer.text
        return {each["id"] for each in answer.json()}


class Crowd:
    """All phones at work."""

    def __init__(self, phones: list[Phone]) -> None:
        self.phones = phones
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(phone,)) for phone in phones]
        for thread in self._threads:
            thread.start()

    def _work(self, phone: Phone) -> None:
        while not self._over.is_set():
            phone.turn()
            time.sleep(0.05)

    def goes_on(self, what: str) -> None:
        """Wait until each phone is answered again."""
        before = [phone.done for phone in self.phones]

        def all_go_on() -> bool:
            return all(phone.done >= done + 3 for phone, done in zip(self.phones, before, strict=True))

        wait_until(all_go_on, f"all phones to go on {what}", 90)

    def end(self) -> None:
        """Let all come to the end of their turn."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def through_all(cluster: ReplicatedCluster, service: RunningService) -> list[tuple[str, Callable[[], None]]]:
    """List what happens to the cluster, each as an operator or a machine would do it."""

    def kill() -> None:
        primary = cluster.primary(0)
        primary.kill()
        wait_until(lambda: cluster.primary(0) is not primary and len(_primaries(cluster)) == 3, "a failover", 60)
        primary.start()

    def stop() -> None:
        primary = cluster.primary(1)
        primary.pause()
        time.sleep(8)
        primary.resume()

    def fail_over() -> None:
        cluster.replica_of(cluster.primary(2)).command("CLUSTER", "FAILOVER")

    def reshard() -> None:
        source, target = cluster.primary(0), cluster.primary(1)
        cluster.move_slots(source, target, cluster.slots_of(source)[:2000])

    def add_and_remove() -> None:
        more, replica = cluster.node(), cluster.node()
        for node in (more, replica):
            cluster.meet(node, cluster.alive())
        cluster.replicate(replica, more)
        wait_until(lambda: len(cluster.facts(more)) == len(cluster.nodes), "the new nodes to be known", 60)
        time.sleep(2)
        source = cluster.primary(0)
        cluster.move_slots(source, more, cluster.slots_of(source)[:1500])
        cluster.wait_settled()
        time.sleep(2)
        cluster.move_slots(more, source, cluster.slots_of(more))
        cluster.forget([replica, more])

    def restart() -> None:
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()

    def lose_the_name_and_a_worker() -> None:
        cluster.name.lead_to(1)  # nobody is there
        service.workers()[0].kill()
        wait_until(lambda: len(service.workers()) == 2, "another worker", 30)

    return [
        ("killed", kill),
        ("stopped", stop),
        ("failed over", fail_over),
        ("resharded", reshard),
        ("more and fewer nodes", add_and_remove),
        ("restarted", restart),
        ("name and worker lost", lose_the_name_and_a_worker),
    ]


def _primaries(cluster: ReplicatedCluster) -> list[int]:
    facts = cluster.facts(cluster.alive())
    return [each.port for each in facts if "master" in each.flags and each.slots and "fail" not in each.flags]


def moved(cluster: ReplicatedCluster, service: RunningService) -> list[tuple[str, Callable[[], None]]]:
    """Have all nodes under other addresses at once."""
    return [("moved", cluster.move_all)]


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["redis7", "valkey"])
@pytest.mark.parametrize("events", [through_all, moved])
def test_what_a_cluster_goes_through_costs_nobody_anything(
    tmp_path: Path,
    kind: str,
    events: Callable[[ReplicatedCluster, RunningService], list[tuple[str, Callable[[], None]]]],
) -> None:
    with ReplicatedCluster(binary_of(kind), tmp_path / "cluster") as cluster:
        url = f"redis+cluster://127.0.0.1:{cluster.name.port}"
        with RunningService(
            tmp_path / "service", workers=2, redis_url=url, durability="replica", replicas="1"
        ) as service:
            users = [f"user{number}" for number in range(PHONES)]
            crowd = Crowd([Phone(service.url, service.sign_in(user)) for user in users])
            arbiters = psutil.Process(service.process.pid).children() if service.process else []
            survivors = service.workers()
            try:
                crowd.goes_on("at first")
                for what, happens in events(cluster, service):
                    cluster.wait_settled()
                    happens()
                    crowd.goes_on(f"after: {what}")
            finally:
                crowd.end()
            _judge(crowd)
            assert psutil.Process(service.process.pid).children() == arbiters if service.process else False
            assert [worker.pid for worker in service.workers() if worker in survivors], "no worker lived through it"
            assert service.faults() == []


def _judge(crowd: Crowd) -> None:
    """Hold what was answered against what is there."""
    wrong = [each for phone in crowd.phones for each in phone.wrong]
    assert wrong == []
    longest_s = max(phone.longest_s for phone in crowd.phones)
    assert longest_s <= LONGEST_S + 0.5, f"a request took {longest_s:.1f} s; half a second is a busy machine's"
    made, lost, again = 0, [], []
    for phone in crowd.phones:
        living = phone.living()
        made += len(phone.made)
        lost += [sid for sid in phone.made if sid not in phone.ended | phone.unknown | living]
        again += sorted(phone.ended & living)
    statuses = sum((phone.statuses for phone in crowd.phones), Counter[int]())
    print(f"{made} sessions made, {dict(statuses)}, longest {longest_s:.2f} s")
    assert (lost, again) == ([], [])
