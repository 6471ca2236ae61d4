"""The page of a run: what it says is what the run folder says."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import photon
from photon.cli.main import run
from photon.errors import PhotonWarning, RunFolderError
from photon.report import evaluation_plots
from photon.report.comparison import bytes_line
from photon.report.evaluation_plots import draw_history
from photon.report.history import AXES, differing_keys, read_histories, read_history
from photon.report.outcome import how_to_try, ratio_lines
from photon.report.page import render
from photon.report.plots import STATES, client_plots, loss_plot, sent_plot, throughput_plot
from photon.report.tables import evaluation_tables, table, unigram_losses
from photon.report.thinning import MOST_BARS, MOST_POINTS, most_for_each, thinned
from photon.run import trackers
from photon.run.listing import damage
from photon.run.results import Score, TrainResult, read_summary
from photon.run.trackers import read_lines

CLIENTS = ["fl.n_total_clients=2", "fl.n_rounds=3", "fl.eval_period=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root) -> Path:
    """A run of three rounds, with the twin beside it."""
    root = tmp_path_factory.mktemp("runs")
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}", *CLIENTS, "run_uuid=first",
            "compare.alone=true", "compare.centralized=true",
            f"photon.saving_path={root}"]  # fmt: skip
    return Path(photon.train(keys).folder)


def figure(plots, title):
    return next(plot for plot in plots if plot.title == title)


def test_losses_stand_at_what_was_spent(trained):
    records = read_lines(trained / "metrics.jsonl")
    history = read_history(trained)
    plot = loss_plot(history.curves, {})
    validation, training = plot.data[:2]
    validated = [record for record in records if "val_loss" in record]
    assert validation["y"] == [record["val_loss"] for record in validated]
    assert len(validation["y"]) < len(training["y"]) == 3
    sums = {"tokens": lambda r: r["tokens"], "steps": lambda r: r["step"]}
    buttons = {b["label"]: b["args"][0]["x"] for b in plot.layout["updatemenus"][0]["buttons"]}
    assert list(buttons) == list(AXES)
    for axis, of in sums.items():
        assert buttons[axis][0] == [of(record) for record in validated]
    spent = [record["bytes_up"] + record["bytes_down"] for record in records]
    assert buttons["bytes"][1] == [sum(spent[: i + 1]) for i in range(3)]
    seconds = [record["seconds"] for record in records]
    assert buttons["time"][1] == pytest.approx([sum(seconds[: i + 1]) for i in range(3)])


def test_the_page_says_what_the_terminal_says(trained):
    """Of a run that has ended: its place, its ratios, its floor."""
    history = read_history(trained)
    page, summary = render([history], ""), read_summary(trained)
    assert "first: ended after round 3 of 3" in page
    scores = {k: Score(**summary[k]) for k in ("federated", "centralized", "alone", "unigram")}
    lines = ratio_lines(TrainResult(**summary | scores))
    assert len(lines) == 2
    for line in lines:
        assert line in page
    floor = summary["unigram"]
    cells = [f'<td class="number">{floor[key]:.3f}</td>' for key in ("val_loss", "bits_per_byte")]
    assert "<td>unigram model</td>" + "<td>-</td>" * 3 + "".join(cells) in page


def test_the_floor_is_a_line_from_end_to_end(trained):
    history = read_history(trained)
    plot = loss_plot(history.curves, {"unigram model": 5.0})
    assert (plot.data[-1]["name"], plot.data[-1]["y"]) == ("unigram model", [5.0, 5.0])
    for button in plot.layout["updatemenus"][0]["buttons"]:
        *others, floor = button["args"][0]["x"]
        assert len(others) + 1 == len(plot.data)
        assert floor[0] <= min(map(min, others))
        assert floor[1] == max(map(max, others))


def test_an_asynchronous_run_has_a_timeline_of_clients_against_versions(trained, tmp_path):
    """From the records: each update once, from the version it was made from to its merge."""

    def made_late(records):
        records[0] |= {"accepted": [0], "late": {}}
        records[1] |= {"accepted": [0], "late": {}}
        records[2] |= {"accepted": [0, 1], "late": {"1": 2}}

    history = read_history(altered(trained, tmp_path, made_late))
    assert not [p for p in client_plots(history, "run") if p.title == "Clients and versions"]
    history.config["fl.mode"] = "async"
    plots = client_plots(history, "run")
    assert not [p for p in plots if p.title == "Who took part"], "nobody is missing who trains on"
    plot = figure(plots, "Clients and versions")
    fresh, stale = plot.data
    assert (fresh["name"], stale["name"]) == ("0 merges late", "2 merges late")
    assert fresh["x"] == [0, 1, None, 1, 2, None, 2, 3, None]
    assert [y for y in fresh["y"] if y] == ["client 0"] * 6
    assert (stale["x"], stale["y"][0]) == ([0, 3, None], "client 1")
    assert stale["text"][0] == "from version 0, merged into 3, 2 late"
    assert plot.title in render([history], "")


def test_a_run_on_its_way_has_its_place_and_floor(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: records.pop())
    (folder / "summary.json").unlink()
    page = render([read_history(folder)], "")
    assert "altered: stopped after round 2 of 3" in page
    assert "unigram model" in page
    assert "x centralised" not in page, "the twin is not there yet"
    sent = [sum(r[key] for r in read_lines(folder / "metrics.jsonl"))
            for key in ("bytes_up", "bytes_down", "bytes_ddp")]  # fmt: skip
    assert str(bytes_line(*sent)) in page


def test_two_runs_of_one_text_have_one_floor(trained, tmp_path):
    one, other = read_history(trained), read_history(altered(trained, tmp_path, lambda r: None))
    assert list(unigram_losses([one, other])) == ["unigram model"]
    lower = replace(other, unigram={"val_loss": 1.0, "bits_per_byte": 1.0})
    found = unigram_losses([one, lower])
    assert list(found) == ["first: unigram model", "altered: unigram model"]
    assert found["altered: unigram model"] == 1.0
    *_, first, second = loss_plot(one.curves, found).data
    assert first["line"]["color"] != second["line"]["color"]
    assert unigram_losses([replace(one, unigram=None)]) == {}


def test_the_floor_of_an_older_run_is_in_its_summary(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: None)
    facts = json.loads((folder / "run.json").read_text())
    floor = facts.pop("unigram")
    (folder / "run.json").write_text(json.dumps(facts))
    assert read_history(folder).unigram == floor == read_summary(folder)["unigram"]


def test_numbers_of_a_table_have_the_same_decimals():
    html = table(("", "a"), [["x", 2.0], ["y", 12345.678], ["z", 0.00012]])
    assert re.findall(r'class="number">([^<]+)<', html) == ["2.000", "12,345.678", "0.000"]


def test_three_kinds_of_bytes_are_told_apart_by_three_means(trained):
    lines = sent_plot([read_history(trained).curve]).data
    for field in (
        lambda line: line["line"]["color"],
        lambda line: line["line"]["dash"],
        lambda line: line["marker"]["symbol"],
    ):
        assert len(set(map(field, lines))) == 3


def test_the_baselines_are_curves_of_their_own(trained):
    names = [curve.name for curve in read_history(trained).curves]
    assert names == ["first", "first: alone", "first: centralized"]


def test_bytes_and_throughput(trained):
    curves = read_history(trained).curves
    records = read_lines(trained / "metrics.jsonl")
    up, down, twin = sent_plot(curves).data
    assert up["y"][-1] == sum(record["bytes_up"] for record in records)
    assert down["y"][-1] == sum(record["bytes_down"] for record in records)
    assert twin["y"][-1] == sum(record["bytes_ddp"] for record in records)
    assert len(throughput_plot(curves).data) == 3


def test_where_a_devices_time_went(trained, tmp_path):
    """Bars of each part, and over all rounds the share in which devices trained."""

    def change(records):
        for number, record in enumerate(records):
            record["device_seconds"] = {"train": 3.0 + number, "wait": 1.0}
        del records[0]["device_seconds"]  # as an older version of Photon wrote it

    history = read_history(altered(trained, tmp_path, change))
    bars = figure(client_plots(history, "k"), "Where a device's time went")
    assert [(b["name"], b["x"], b["y"]) for b in bars.data] == [
        ("train", [2, 3], [4.0, 5.0]), ("wait", [2, 3], [1.0, 1.0])
    ]  # fmt: skip
    assert bars.layout["barmode"] == "stack"
    page = render([history], "")
    assert "<th>devices busy</th>" in page
    assert "<td>82%</td>" in page, "9 of 11 seconds"


def altered(trained: Path, tmp_path: Path, change) -> Path:
    """A copy of the run whose records were changed."""
    folder = tmp_path / "altered"
    folder.mkdir()
    for name in ("run.json", "config.json", "summary.json"):
        (folder / name).write_bytes((trained / name).read_bytes())
    records = read_lines(trained / "metrics.jsonl")
    change(records)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_who_took_part_and_why_not(trained, tmp_path):
    def change(records):
        records[0] |= {"accepted": [0], "refused": {"1": "norm 1000 x the median"}}
        records[1] |= {"accepted": [1], "missing": {"0": "the node is gone"}}
        records[2] |= {"accepted": [1], "late": {"0": 1}}

    history = read_history(altered(trained, tmp_path, change))
    plot = figure(client_plots(history, "run0"), "Who took part")
    names = list(STATES)
    cells = [[names[cell] for cell in row] for row in plot.data[0]["z"]]
    assert cells == [["accepted", "missing", "late"], ["refused", "accepted", "accepted"]]
    texts = plot.data[0]["text"]
    assert texts[1][0] == "refused (norm 1000 x the median)"
    assert texts[0][1] == "missing (the node is gone)"
    assert texts[0][2] == "late (by 1)"


def test_a_private_run_says_its_epsilon(trained, tmp_path):
    def change(records):
        for record in records:
            record |= {"epsilon": 1.5 * record["round"], "delta": 1e-6}

    assert "private:" not in render([read_history(trained)], "")
    page = render([read_history(altered(trained, tmp_path, change))], "")
    assert "private: epsilon 4.5 at delta 1e-06, of all rounds together" in page


def test_the_spread_is_that_of_the_clients(trained):
    records = read_lines(trained / "metrics.jsonl")
    plots = client_plots(read_history(trained), "run0")
    for title, field in (("Agreement", "client_cosines"), ("Norms", "client_norms")):
        largest, smallest, middle = figure(plots, title).data
        assert largest["y"] == [max(record[field].values()) for record in records]
        assert smallest["y"] == [min(record[field].values()) for record in records]
        assert middle["y"] == [sum(record[field].values()) / 2 for record in records]
    first, second = figure(plots, "Loss of each client").data
    for line, client in ((first, "0"), (second, "1")):
        found = [record["client_metrics"][client]["train_loss"] for record in records]
        assert line["y"] == found


def test_runs_of_one_name_are_told_apart(trained, tmp_path):
    one, other = read_history(trained), read_history(altered(trained, tmp_path, lambda r: None))
    names = [history.name for history in read_histories([trained, tmp_path / "altered", trained])]
    assert names == ["first", "altered", "first (2)"]
    page = render(read_histories([trained, trained]), "")
    assert "<td>first (2): alone</td>" in page
    assert differing_keys([one, other]) == {}


def test_what_differs_between_runs(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: None)
    config = json.loads((folder / "config.json").read_text())
    config["fl"]["n_rounds"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    found = differing_keys([read_history(trained), read_history(folder)])
    assert found == {"fl.n_rounds": [3, 7]}
    assert "<td>fl.n_rounds</td>" in render([read_history(trained), read_history(folder)], "")


def score(accuracy: float) -> dict:
    return {"accuracy": accuracy, "stderr": 0.1, "chance": 0.5, "majority": 0.5, "n": 9}


def evaluated(folder: Path, name: str, accuracy: float) -> None:
    """As `photon evaluate` leaves it."""
    path = folder / "evaluation" / name / "results.json"
    path.parent.mkdir(parents=True)
    tasks = {"copa": {"score": score(accuracy)}}
    path.write_text(json.dumps({"losses": {}, "composites": [], "tasks": tasks}))


def test_evaluations_of_a_clients_own_model_are_there(trained, tmp_path, monkeypatch):
    folder, drawn = altered(trained, tmp_path, lambda records: None), {}
    for name in ("round_000001", "client-4/round_000001", "client-4/round_000003", "my_notes"):
        evaluated(folder, name, 0.25)
    evaluated(folder, "client-4/round_000002", 0.5)
    html = evaluation_tables([read_history(folder)])
    assert "<th>altered client-4/round_000002</th>" in html
    assert "<th>altered my_notes</th>" in html
    monkeypatch.setattr(evaluation_plots, "draw_lines", lambda lines, *_: drawn.update(lines))
    draw_history(folder)
    assert drawn == {"client-4: copa": [(1, 0.25), (2, 0.5), (3, 0.25)]}


@pytest.mark.parametrize(
    "text", ['{"los', "[]", '{"losses": {}}', '{"losses": {"v": 1}, "composites": [], "tasks": {}}']
)
def test_an_evaluation_that_is_cut_off_is_left_out(trained, tmp_path, text):
    folder = altered(trained, tmp_path, lambda records: None)
    for name in ("round_000001", "round_000002"):
        evaluated(folder, name, 0.25)
    (folder / "evaluation/round_000001/results.json").write_text(text)
    with pytest.warns(PhotonWarning, match=r"left out: .*round_000001/results.json: cannot be"):
        history = read_history(folder)
    assert list(history.evaluations) == ["altered round_000002"]
    assert "altered round_000002" in render([history], "")


def test_a_baseline_that_has_only_begun_is_no_curve(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: None)
    (folder / "baselines/centralized").mkdir(parents=True)
    (folder / "baselines/centralized/metrics.jsonl").touch()
    history = read_history(folder)
    assert [curve.name for curve in history.curves] == ["altered"]
    assert "altered: ended" in render([history], "")


def test_a_record_that_lies_nowhere_is_left_out(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: records[0].pop("tokens"))
    with pytest.warns(PhotonWarning, match="1 records without step or tokens are left out"):
        assert len(read_history(folder).curve.records) == 2


def test_a_long_run_is_shown_as_a_screen_can(trained, tmp_path):
    """30,000 rounds were a page of 30 MB, with a point, a bar and a cell for each of them."""

    def change(records):
        like, count = records[-1], 5000
        del records[:]
        for number in range(1, count + 1):
            accepted = [0] if number == 2501 else [0, 1]
            loss = 9.0 if number == 3333 else 5.0 - number / count
            seconds = {"train": float(number % 10 == 1)}
            records.append({**like, "round": number, "step": number, "val_loss": loss,
                            "accepted": accepted, "phase_seconds": seconds})  # fmt: skip

    history = read_history(altered(trained, tmp_path, change))
    loss = loss_plot([history.curve], {})
    validation = loss.data[0]
    assert len(validation["x"]) == len(validation["y"]) <= MOST_POINTS
    assert (max(validation["y"]), validation["y"][0], validation["y"][-1]) == (9.0, 4.9998, 4.0)
    for button in loss.layout["updatemenus"][0]["buttons"]:
        assert [len(x) for x in button["args"][0]["x"]] == [len(one["y"]) for one in loss.data]
    assert "Of more than 2,000 points" in loss.note
    plots = client_plots(history, "k")
    curves = [figure(plots, title) for title in ("Loss of each client", "Agreement", "Norms")]
    for plot in (*curves, sent_plot([history.curve]), throughput_plot([history.curve])):
        assert plot.note.endswith("Of more than 2,000 points those that stand out are drawn.")
    who = figure(plots, "Who took part")
    assert 2501 in who.data[0]["x"], "the round in which somebody was missing"
    assert {len(who.data[0]["x"]), *map(len, who.data[0]["z"])} <= set(range(MOST_BARS + 1))
    assert "of 5,000 rounds are shown" in who.note
    bars = figure(plots, "Where a round's time went")
    assert bars.data[0]["y"] == [0.1] * 500
    assert bars.note == "Each bar is the mean of 10 rounds."
    history.config["fl.mode"] = "async"
    timeline = figure(client_plots(history, "k"), "Clients and versions")
    assert len(timeline.data[0]["x"]) <= 3 * 2 * MOST_BARS
    lines = [len(line["x"]) for plot in plots for line in plot.data if line["type"] == "scatter"]
    assert max(lines) <= MOST_POINTS


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 37, 1000])
@pytest.mark.parametrize("most", [4, 9, 10])
def test_a_thinned_curve_keeps_its_ends_and_extremes(count, most):
    values = [float((7 * i * i + 3) % 101) for i in range(count)]
    values[5:7] = [math.nan, math.inf][: max(0, count - 5)]
    kept = thinned(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= most
    assert {0, count - 1} <= set(kept) or not values
    finite = {value for value in values if math.isfinite(value)}
    shown = {values[i] for i in kept}
    assert {f(finite) for f in (min, max) if finite} <= shown


def test_many_clients_have_few_points_each():
    assert most_for_each(2, 500) == 500
    assert most_for_each(1000, 500) == 48


def test_a_metrics_file_is_parsed_once(trained, tmp_path, monkeypatch):
    """A page about 30,000 rounds took twice as long as it had to."""
    folder, parsed = altered(trained, tmp_path, lambda records: None), []
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/round_000003.json").write_text("{}")
    real = trackers._record
    monkeypatch.setattr(trackers, "_record", lambda line: (parsed.append(line), real(line))[1])
    read_history(folder)
    assert len(parsed) == 3 + 1, "the last one again, for how far the run is"


DAMAGED = {
    "seconds": ("x", 'seconds is "x", not a number'),
    "train_loss": (None, "train_loss is null, not a number"),
    "client_norms": (3, "client_norms is 3, not numbers by client"),
    "client_metrics": ({"a": {}}, 'client_metrics is {"a": {}}, not numbers by client'),
    "accepted": (["0"], 'accepted is ["0"], not a list of clients'),
    "refused": ([], "refused is [], not by client"),
    "device_seconds": ({"train": []}, 'device_seconds is {"train": []}, not numbers by name'),
}


@pytest.mark.parametrize("field", DAMAGED)
@pytest.mark.parametrize("command", ["report", "status", "watch"])
def test_a_record_that_was_damaged_by_hand_is_named(trained, tmp_path, capsys, field, command):
    value, told = DAMAGED[field]
    folder = altered(trained, tmp_path, lambda records: records[-1].update({field: value}))
    assert run([command, str(folder)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"photon: {folder}/metrics.jsonl:3: {told}; mend the line")


@pytest.mark.parametrize(
    ("field", "beside"),
    [("round", "accepted"), ("seconds", "train_loss"), ("bytes_ddp", "bytes_up")],
)
def test_a_record_that_lacks_a_field_is_named(trained, tmp_path, capsys, field, beside):
    folder = altered(trained, tmp_path, lambda records: records[1].pop(field))
    assert run(["report", str(folder)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"metrics.jsonl:2: there is no {field} beside {beside}" in line.replace("rounds", beside)


@pytest.mark.parametrize("text", ['{"run": "first", "unig', "[]", '{"unigram": {"val_loss": 1}}'])
def test_a_floor_that_is_damaged_is_left_out(trained, tmp_path, text):
    folder = altered(trained, tmp_path, lambda records: None)
    facts = json.loads((folder / "run.json").read_text())
    del facts["unigram"]
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "summary.json").write_text(text)
    with pytest.warns(PhotonWarning, match=r"summary.json: is damaged, the unigram model's loss"):
        assert read_history(folder).unigram is None


@pytest.mark.parametrize("manifest", ["{}", "[1]", '{"facts": 1}', "{"])
def test_a_lost_chain_is_not_looked_for_in_a_damaged_manifest(trained, tmp_path, manifest):
    folder = altered(trained, tmp_path, lambda records: None)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/round_000003.json").write_text(manifest)
    assert damage(folder) == []


def test_evaluations_stand_side_by_side(trained, tmp_path):
    folder = altered(trained, tmp_path, lambda records: None)
    for name, loss, accuracy in (("round_000001", 2.5, 0.25), ("round_000002", 2.0, 0.5)):
        path = folder / "evaluation" / name / "results.json"
        path.parent.mkdir(parents=True)
        scores = {"losses": {"validation": {"loss": loss}},
                  "composites": [{"name": "core_average", "score": accuracy / 2}],
                  "tasks": {"copa": {"score": score(accuracy)}}}  # fmt: skip
        path.write_text(json.dumps(scores))
    html = evaluation_tables([read_history(folder)])
    rows = (["validation", "2.500", "2.000"], ["copa", "0.2500", "0.5000"],
            ["core_average", "0.1250", "0.2500"])  # fmt: skip
    for row in rows:
        assert "</td>".join(f'<td class="number">{cell}' for cell in row[1:]) in html, row
        assert f"<td>{row[0]}</td>" in html
    assert evaluation_tables([read_history(trained)]) == ""


class Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and not value.startswith(("#", "data:")):
                self.found.append(value)
            if name == "id":
                self.ids.append(value)


def test_the_page_needs_no_other_file_and_names_are_no_markup(trained, tmp_path):
    evil = "</script><script>document.title='taken'</script>"

    def change(records):
        records[0] |= {"accepted": [0], "refused": {"1": evil}}

    page = render([read_history(altered(trained, tmp_path, change))], "PLOTLY")
    links = Links()
    links.feed(page)
    assert links.found == []
    assert len(links.ids) == len(set(links.ids))
    assert evil not in page
    assert evil not in table(("key",), [[evil]])


def test_numbers_that_json_does_not_have_are_gaps(trained, tmp_path):
    def change(records):
        records[1]["train_loss"] = float("nan")
        records[1]["client_metrics"]["0"]["train_loss"] = float("inf")

    page = render([read_history(altered(trained, tmp_path, change))], "")
    plots = page.partition('id="plots">')[2].partition("</script>")[0]

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    values = json.loads(plots, parse_constant=refuse)
    clients = next(plot for plot in values if plot["key"].endswith("clients"))
    assert clients["data"][0]["y"][1] is None


def test_the_command_says_what_it_cannot_do(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(["report", str(tmp_path / "empty")]) == 2
    begun = altered(trained, tmp_path, lambda records: records.clear())
    with pytest.raises(RunFolderError, match="no record yet"):
        read_history(begun)
    assert run(["report", str(trained), "--out", "/proc/none/page.html"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_command_to_try_can_be_pasted():
    command = how_to_try(Path("my runs/a"), shlex.quote("def read("))
    assert shlex.split(command) == ["photon", "generate", "my runs/a", "def read("]
