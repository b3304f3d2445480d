"""What the benchmark computes by itself. Run: .venv/bin/python3 -B -m unittest discover -s bench -t ."""

import os
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path
from random import Random
from types import SimpleNamespace

from bench import (
    aged,
    box,
    child,
    compare,
    grown,
    logged,
    medians,
    overload,
    pairs,
    profile,
    public,
    quick,
    rates,
    report,
    search,
    soak,
    stack,
    summary,
    watch,
)
from bench.__main__ import MEASURES
from bench.line import Line, Outcome, Value, at_least, at_most
from bench.proof import Proof

ABOUT = report.About("abc", "2 x CPU", "limited", "make bench", "now", "0.1 0.2 0.3")


class Grown(unittest.TestCase):
    def test_the_totals_expected_of_a_range_are_those_of_its_rows(self):
        rows = 800_000
        expected, choose = grown.Expected(rows), Random(1)
        last = rows * 10_000 // 3
        for _ in range(20):
            begin = choose.randrange(-5_000, last)
            end = begin + choose.randrange(0, 30_000_000)
            wanted = {"default": [0, 0], "fallback": [0, 0]}
            near = range(max(1, begin * 3 // 10_000 - 5), min(rows, end * 3 // 10_000 + 5) + 1)
            for n in near:
                if begin <= n * 10 // 3 * 1000 <= end:
                    of = wanted["fallback" if n % 7 == 0 else "default"]
                    of[0] += 1
                    of[1] += 1 + n * 7_919 % 50_000
            self.assertEqual(
                expected.totals(begin, end), {name: tuple(of) for name, of in wanted.items()}
            )
        everything = expected.totals(-1, last + 1)
        self.assertEqual(sum(count for count, _ in everything.values()), rows)

    def test_a_goal_is_told_where_its_rate_was_measured(self):
        def turn(p99):
            load = SimpleNamespace(
                p99_ms=p99,
                settled=10,
                seconds=1,
                result={"p50_ms": 1},
                us_per_payment={"postgres": 5},
            )
            return grown.Turn(load, 400, 0.5)

        turns = {(7_000, "empty"): [turn(2)], (7_000, "grown"): [turn(9), turn(3), turn(3)]}
        values = grown.rate_values(turns, 7_000, "")
        self.assertEqual(
            [value.value for value in values if "p99" in value.what], [2, 3], "the medians"
        )
        self.assertEqual(grown.times(turns), 1.5)
        self.assertIsNone(grown.times({(100, "grown"): [turn(1)]}))


class Search(unittest.TestCase):
    def test_the_highest_rate_is_found_from_below_and_from_above(self):
        for limit in (150, 700, 3_333, 12_000, 60_000):
            tried = []

            def holds(rate):
                tried.append(rate)
                return rate <= limit

            found = search.highest(3_000, holds)
            self.assertLessEqual(found, limit)
            self.assertGreaterEqual(found, min(limit * (1 - search.PRECISION) - 100, limit - 100))
            self.assertLess(len(tried), 16, f"{limit}: {tried}")
            self.assertEqual(len(tried), len(set(tried)), "no rate is tried twice")

    def test_a_rate_is_judged_by_most_of_its_tries_and_no_more_of_them_than_that_takes(self):
        for said, expected in (
            ([1, 1], True),
            ([0, 0], False),
            ([0, 1, 1], True),
            ([1, 0, 0], False),
        ):
            left = list(map(bool, said))
            self.assertEqual(search.mostly(lambda rate: left.pop(0))(1), expected, said)
            self.assertEqual(left, [], said)

    def test_a_rate_that_never_holds_ends_the_search(self):
        self.assertEqual(search.highest(3_000, lambda rate: False), 0)


class Box(unittest.TestCase):
    def groups(self, root, own):
        return box.Groups("test", Path(root), own)

    def fake(self, root, *folders):
        for folder in folders:
            (Path(root) / folder).mkdir()

    def test_version_1_is_limited_below_the_root(self):
        with tempfile.TemporaryDirectory() as root:
            self.fake(root, "cpu", "memory")
            groups = self.groups(root, {"cpu": "/", "memory": "/"})
            self.assertEqual((Path(root) / "cpu/test/cpu.cfs_quota_us").read_text(), "150000\n")
            self.assertEqual(
                (Path(root) / "memory/test/memory.limit_in_bytes").read_text(), f"{350 << 20}\n"
            )
            with groups.lifted():
                self.assertEqual((Path(root) / "cpu/test/cpu.cfs_quota_us").read_text(), "-1\n")
            self.assertEqual((Path(root) / "cpu/test/cpu.cfs_quota_us").read_text(), "150000\n")
            self.assertEqual(groups.words(), "limited to 1.5 CPU and 350 MB together")

    def test_version_2_is_limited_in_one_group(self):
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "cgroup.controllers").touch()
            groups = self.groups(root, {"": "/"})
            self.assertEqual((Path(root) / "test/cpu.max").read_text(), "150000 100000\n")
            self.assertEqual((Path(root) / "test/memory.max").read_text(), f"{350 << 20}\n")
            with groups.lifted():
                self.assertEqual((Path(root) / "test/cpu.max").read_text(), "max 100000\n")
            self.assertEqual(
                len([part for part in groups.enter() if part.endswith("cgroup.procs")]), 1
            )

    def test_a_group_of_somebody_else_is_left_alone_and_the_report_says_so(self):
        with tempfile.TemporaryDirectory() as root:
            self.fake(root, "cpu", "memory")
            groups = self.groups(root, {"cpu": "/", "memory": "/theirs"})
            self.assertEqual(list(groups.folders), ["cpu"])
            self.assertEqual(list((Path(root) / "memory").iterdir()), [])
            self.assertIn("350 MB NOT ENFORCED", groups.words())

    def test_without_control_groups_the_report_says_so(self):
        with tempfile.TemporaryDirectory() as root:
            self.assertTrue(self.groups(root, {}).words().startswith("NOT LIMITED"))

    def test_groups_of_a_benchmark_that_was_killed_are_taken_away(self):
        with tempfile.TemporaryDirectory() as root:
            gone, alive = f"cpu/{box.PREFIX}-999999999", f"cpu/{box.PREFIX}-{os.getpid()}"
            self.fake(root, "cpu", "memory", gone, alive)
            self.groups(root, {"cpu": "/", "memory": "/"})
            self.assertFalse((Path(root) / gone).exists())
            self.assertTrue((Path(root) / alive).exists())

    def test_precedence_is_put_back(self):
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("/autogroup-7 nice 3\n")
            file.flush()
            before = os.getpriority(os.PRIO_PROCESS, 0)
            with box.preferred(Path(file.name)):
                inside = Path(file.name).read_text()
            self.assertIn(inside, (str(box.NICE), "/autogroup-7 nice 3\n"), "as permitted")
            if inside == str(box.NICE):
                self.assertEqual(Path(file.name).read_text(), "3")
                os.setpriority(os.PRIO_PROCESS, 0, before)

    def test_entering_runs_the_command_as_it_is(self):
        with tempfile.TemporaryDirectory() as root:
            self.fake(root, "cpu", "memory")
            groups = self.groups(root, {"cpu": "/", "memory": "/"})
            told = child.run([*groups.enter(), "sh", "-c", 'echo $$ "$@"', "x", "two words", "--"])
            pid, rest = told.split(" ", 1)
            self.assertEqual(rest, "two words --\n")
            for controller in ("cpu", "memory"):
                self.assertEqual(
                    (Path(root) / controller / "test/cgroup.procs").read_text(), f"{pid}\n"
                )

    def test_a_command_is_kept_on_one_of_the_cpus_there_are(self):
        here = sorted(os.sched_getaffinity(0))
        for cpu in range(len(here) + 1):
            told = child.run(
                [*box.on(str(cpu)), "sed", "-n", "s/^Cpus_allowed_list:\t//p", "/proc/self/status"]
            )
            self.assertEqual(told, f"{here[cpu % len(here)]}\n")

    def test_memberships_of_both_versions(self):
        text = "5:cpu,cpuacct:/a\n4:memory:/b:c\n0::/d\n"
        self.assertEqual(
            box.memberships(text), {"cpu": "/a", "cpuacct": "/a", "memory": "/b:c", "": "/d"}
        )

    def test_a_process_with_an_odd_name_is_read(self):
        line = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 100 50 20 30 20 0 1 0 5 6 7"
        self.assertEqual(box.parse_stat(line), box.Process(3, 120 * box.TICK_S, 80 * box.TICK_S))

    def test_a_family_is_the_process_and_all_below_it(self):
        tree = {pid: box.Process(parent, 0, 0) for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 1))}
        self.assertEqual(sorted(box.family(tree, 2)), [2, 3])
        self.assertEqual(box.family(tree, 9), [])

    def test_time_used_by_a_child_that_ended_is_counted(self):
        before = box.cpu_s({"me": os.getpid()})["me"]
        os.system(": burn; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done")
        self.assertGreater(box.cpu_s({"me": os.getpid()})["me"], before)


class Compose(unittest.TestCase):
    def test_the_limits_and_settings_of_the_compose_file_are_read(self):
        core = stack.compose(overlay="")
        self.assertIn("shared_buffers", {setting.split("=")[0] for setting in core.postgres})
        self.assertTrue(all("=" in setting for setting in core.postgres))
        self.assertEqual(
            (core.cpus, core.nginx, core.sql), ({}, stack.REPOSITORY / "nginx.conf", None)
        )

    def test_the_overlay_of_the_contest_is_laid_over_it(self):
        core, contest = stack.compose(overlay=""), stack.compose(overlay=stack.CONTEST)
        self.assertEqual(contest.postgres, core.postgres)
        self.assertEqual(contest.cpus, {"nginx": "0", "api1": "0", "api2": "0", "postgres": "1"})
        files = [
            stack.REPOSITORY / "deploy/contest" / name for name in ("nginx.conf", "give-way.sql")
        ]
        self.assertEqual([contest.nginx, contest.sql], files)
        self.assertEqual((core.settings, contest.settings), ({}, {"HOLD_MS": "10000"}))
        self.assertTrue(all(file.exists() for file in files))


class Ports(unittest.TestCase):
    def test_outgoing_connections_do_not_take_them(self):
        with tempfile.NamedTemporaryFile("w+") as file:
            for outgoing, ports in (
                ("10020\t60999\n", range(10_000, 10_020)),
                ("1024\t65535\n", range(10_000, 65_536)),
            ):
                Path(file.name).write_text(outgoing)
                self.assertTrue(all(stack.free_port(Path(file.name)) in ports for _ in range(50)))


class Summary(unittest.TestCase):
    def test_expected_totals_are_those_of_the_rows_in_the_range(self):
        rows, choose = 500, Random(1)
        expected = summary.Expected(rows)
        factor, modulus = summary.CENTS_OF_N
        for _ in range(300):
            first, last = sorted(choose.randrange(-5_000, (rows + 5) * 1000) for _ in range(2))
            inside = [n for n in range(1, rows + 1) if first <= n * 1000 <= last]
            for name, theirs in (("default", False), ("fallback", True)):
                chosen = [
                    1 + n * factor % modulus
                    for n in inside
                    if (n % summary.FALLBACK_OF_N == 0) == theirs
                ]
                self.assertEqual(expected.totals(first, last)[name], (len(chosen), sum(chosen)))

    def test_moments_are_written_to_the_microsecond(self):
        self.assertEqual(summary.moment(1_000_001), "2026-01-01T00:00:01.000001Z")
        self.assertEqual(summary.moment(-1), "2025-12-31T23:59:59.999999Z")


class Overload(unittest.TestCase):
    def test_recovery_lasts_until_the_last_payment_that_was_not_served_well(self):
        lines = [
            "a,1000000,202,9000,1",
            "b,1001000,503,500000,1",
            "c,1002000,202,1500000,1",
            "d,1003000,202,249000,1",
        ]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "posted.csv"
            for posted, seconds in ((lines, 3.5), (lines[:2], 1.5), (lines[:1], 0)):
                file.write_text("\n".join(posted) + "\n")
                self.assertAlmostEqual(overload.recovered(file, 1000), seconds)


class Pairs(unittest.TestCase):
    def test_a_cost_is_told_with_how_far_it_may_be_off(self):
        rng = Random(1)
        slow = [rng.uniform(1, 3) for _ in range(200)]
        noisy = [(hour, hour * rng.uniform(1.05, 1.15)) for hour in slow]
        low, high = pairs.interval(noisy)
        self.assertLess(low, pairs.cost(noisy))
        self.assertLess(pairs.cost(noisy), high)
        self.assertTrue(9 < low and high < 11)
        self.assertAlmostEqual(pairs.cost([*[(1, 1.1)] * 9, (1, 50)]), 10)
        self.assertAlmostEqual(pairs.cost([(1, 2), (2, 1)]), 0)

    def test_two_medians_are_told_with_how_far_they_may_be_off(self):
        alone, under_watch = (
            [float(n % 10 + 10) for n in range(200)],
            [float(n % 10 + 11) for n in range(200)],
        )
        low, high = medians.interval(alone, under_watch)
        self.assertLess(low, medians.cost(alone, under_watch))
        self.assertLess(medians.cost(alone, under_watch), high)


class Public(unittest.TestCase):
    def test_the_contest_s_minute_is_compared_turn_by_turn(self):
        def in_turns(*p99):
            latencies = public.Latencies()
            for ms in p99:
                slow = [SimpleNamespace(ms=ms, unanswered=False)] * 2
                latencies.add(
                    SimpleNamespace(
                        posted=dict(
                            enumerate([SimpleNamespace(ms=0.5, unanswered=False)] * 98 + slow)
                        )
                    )
                )
            return latencies

        bare, ours = in_turns(1.0, 2.0, 4.0, 1.0, 1.0), in_turns(2.0, 4.0, 8.0, 1.0, 4.0)
        times, low, high = ours.over(bare)
        self.assertAlmostEqual(times, 2.0)
        self.assertTrue(1.0 < low < times < high < 4.0)
        self.assertEqual(
            ours.words("ours"),
            "ours: POST p99 2.00, 4.00, 8.00, 1.00, 4.00 ms in its turns, p50 0.50 ms",
        )


class Cpu(unittest.TestCase):
    OURS = [
        {"postgres": 80.0, "nginx": 40.0},
        {"postgres": 120.0, "nginx": 30.0},
        {"postgres": 90.0, "nginx": 60.0},
    ]

    def test_what_is_said_of_several_turns_is_their_median(self):
        self.assertEqual(rates.middle(self.OURS), ({"postgres": 90.0, "nginx": 40.0}, 150.0))


class Settle(unittest.TestCase):
    def test_a_rate_that_cannot_be_kept_up_with_is_not_confirmed(self):
        tries = [
            rates.confirmations(rate, asked)
            for rate, asked in ((0, 9_000), (0, None), (9_000, 9_000))
        ]
        self.assertEqual(tries, [0, 0, 1])
        self.assertEqual(rates.confirmations(9_000, None), rates.CONFIRMATIONS)


class Soak(unittest.TestCase):
    BEFORE = {
        watch.OTHERS: 1.0,
        "MB resident of api1": 40.0,
        "bytes of payment_queue": 8 << 20,
        "settled": 1_000.0,
        "bytes of payment_processed": 100.0,
    }

    def test_the_nights_that_are_compared_have_one_rate_and_the_peaks_another(self):
        offered = [soak.rate_of(step, 1_500) for step in range(soak.STEPS)]
        self.assertEqual({offered[step] for step in (*soak.FIRST, *soak.LAST)}, {soak.NIGHT_RATE})
        self.assertEqual((min(offered), max(offered), offered[0]), (soak.NIGHT_RATE, 1_500, 1_500))
        self.assertGreaterEqual(soak.FIRST[0], soak.STEPS / 10)
        self.assertEqual(soak.LAST[-1], soak.STEPS - 1)

    def test_what_grows_with_payments_may_and_all_else_may_not(self):
        after = {
            watch.OTHERS: 5.0,
            "MB resident of api1": 44.0,
            "bytes of payment_queue": 8.8 * (1 << 20),
            "settled": 9_000.0,
            "bytes of payment_processed": 900.0,
        }
        self.assertEqual(compare.grown(self.BEFORE, after), [])
        after |= {"MB resident of api1": 45.0, "bytes of payment_queue": 9 << 20}
        self.assertEqual(len(compare.grown(self.BEFORE, after)), 2)
        text = compare.text([], self.BEFORE, after, [], [], [])
        self.assertIn("| MB resident of api1 | 40 | 45 | 44 | **grew** |", text)
        self.assertIn("| bytes of payment_processed | 100 | 900 | 0.1 |", text)

    def test_a_night_is_its_median_whatever_came_before_or_between(self):
        looks = [
            (0, {"MB": 99}),
            (10, {"MB": 1}),
            (11, {"MB": 70}),
            (12, {"MB": 2}),
            (13, {"MB": 2}),
            (20, {"MB": 99}),
        ]
        self.assertEqual(compare.night(looks, 10, 13), {"MB": 2})

    def test_a_stack_that_has_become_slower_is_told_of(self):
        fresh = [1.0, 9.0, 2.0, 2.0, 2.0]
        latencies = [
            aged.Latency("p50", fresh, [2.2, 2.2, 9.0, 2.2, 1.0]),
            aged.Latency("p99", fresh, [3.1, 3.1, 9.0, 3.1, 1.0]),
        ]
        self.assertEqual(
            aged.troubles(latencies),
            ["p99 of POST: 3.10 ms after the day, 2.00 ms of a fresh stack"],
        )
        self.assertIn("| p99 | 2.00 ms | 3.10 ms | 3.00 ms |", "\n".join(aged.text(latencies)))


class Tools(unittest.TestCase):
    def test_the_table_of_durability_bench_is_read(self):
        printed = "| accepted per second | 100 | 76 | 0.76 |\n| claimed and settled per second | 50 | 40 | 0.80 |\n"
        self.assertEqual(
            logged.durability_rows(printed)[0], ("accepted per second", 100.0, 76.0, 0.76)
        )
        with self.assertRaises(child.Broken):
            logged.durability_rows("nothing")

    def test_statements_are_told_apart(self):
        rows = [
            ["SELECT queued_row FROM accept_payment($1)", "10", "5.5"],
            ["SELECT removed_ids FROM settle_payments($1)", "2", "7"],
            ["BEGIN", "1", "1"],
            ["COMMIT", "1", "2"],
        ]
        found = profile.by_statement(rows)
        self.assertEqual(
            (found["accept one"], found["settle"], found[profile.OTHERS], found["claim"]),
            ((10, 5.5), (2, 7.0), (2, 3.0), (0, 0.0)),
        )


class Report(unittest.TestCase):
    def outcomes(self):
        charts = [
            ("scatter", "t", "x", "y", [(2, 3.0), (1, 2.0)]),
            ("bars", "t", "us", {"a": {"p": 1.0, "q": 2.0}, "b": {"p": 1.5}}),
        ]
        values = [
            at_most("latency", 1.234, 1.5, "ms"),
            at_least("rate", 7_999.0, 8_000, "/s"),
            Value("of that", 12_345.6, "/s"),
        ]
        return {
            "one": Outcome(
                values, [Proof(10)], ["a note"], charts, {"api1": 20.0, "api2": 41.0, "box": 200.0}
            ),
            "two": Outcome(
                [Value("x", 1, "")], [Proof(5, ["1 LOST, e.g. z"])], memory_mb={"api1": 30.0}
            ),
            "three": Outcome([], [Proof(0, ["three BROKEN: why"])]),
        }

    def test_values_targets_and_audits_are_in_the_table(self):
        text = report.text(ABOUT, self.outcomes(), {"one": ["one-0.svg"]})
        self.assertIn(
            "| latency | 1.23 ms | <= 1.5 ms | yes | 10 payments, none lost or charged twice, ledgers equal |",
            text,
        )
        self.assertIn("| rate | 7,999 /s | >= 8,000 /s | **no** |  |", text)
        self.assertIn("| of that | 12,346 /s |  |  |  |", text)
        self.assertIn("1 LOST, e.g. z", text)
        self.assertIn("| three | | | | three BROKEN: why |", text)
        self.assertIn("| 41 MB RSS | <= 40 MB RSS | **no** |", text)
        self.assertIn("| 200 MB PSS | <= 350 MB PSS | yes |", text)
        self.assertIn("![one](one-0.svg)", text)

    def test_the_memory_of_an_instance_in_overload_stands_by_itself(self):
        memory = {
            "quiet": {"api1": 20, "api2": 24, "box": 150},
            "overload": {"api1": 46, "api2": 45, "box": 180},
        }
        values = report.memory({name: Outcome([], memory_mb=mb) for name, mb in memory.items()})
        self.assertEqual([value.value for value in values], [24, 46, 180])
        self.assertEqual([value.reached for value in values], [True, None, True])
        self.assertEqual(report.memory({"start": Outcome([])}), [])

    def test_report_and_charts_are_written(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            lines = [Line(name, "", None) for name in ("one", "two", "three")]
            report.write(folder, ABOUT, lines, self.outcomes())
            drawn = [
                xml.etree.ElementTree.parse(folder / f"one-{n}.svg").getroot().tag for n in range(2)
            ]
            self.assertEqual(drawn, ["{http://www.w3.org/2000/svg}svg"] * 2)
            self.assertIn("latency", (folder / "report.json").read_text())


class Quick(unittest.TestCase):
    def found(self, **values):
        outcome = Outcome([Value(what, value, "/s") for what, value in values.items()])
        outcome.values.append(Value("of that nginx", 1, "us"))
        return quick.figures(ABOUT, {"one": outcome})

    def test_a_run_is_shown_beside_ours_with_bars_that_begin_at_zero(self):
        shown = quick.table(self.found(rate=6_000, new=3), self.found(rate=12_000, gone=1))
        for line in (
            "| what | here | ours |",
            "| rate | 6,000 /s | 12,000 /s |",
            "| new | 3 /s |  |",
            f"  here {'█' * (quick.WIDTH // 2)} 6,000",
            f"  ours {'█' * quick.WIDTH} 12,000",
        ):
            self.assertIn(line, shown.splitlines())
        self.assertNotIn("gone", shown)
        self.assertNotIn("nginx", shown)

    def test_where_ours_were_not_recorded_a_run_is_shown_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ours.json"
            found = self.found(rate=6_000, none=0)
            self.assertIn("| rate | 6,000 /s |\n", quick.table(found, quick.ours(file)))
            quick.record(found, file)
            self.assertEqual(quick.ours(file), found)

    def test_what_is_recorded_as_ours_is_measured_by_the_quick_lines(self):
        names = quick.LINES.split()
        self.assertEqual([name for name in names if name not in MEASURES], [])
        ours = quick.ours()
        if ours:
            self.assertRegex(ours["about"]["commit"], r"^[0-9a-f]{10}$")
            self.assertTrue(all(value for value, _ in ours["values"].values()))

    def test_without_a_box_nothing_is_limited(self):
        groups = box.Groups("no-box", boxed=False)
        self.assertEqual((groups.folders, groups.words()), ({}, "NOT LIMITED"))


if __name__ == "__main__":
    unittest.main()
