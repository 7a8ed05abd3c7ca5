"""The page of a front: what it holds, and in a browser what hovering, clicking and limits do."""

import json
import re
import sys

import browser
import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _explorer
from dynadnn._machine import Machine
from dynadnn._record import Record

pytest.importorskip("plotly", reason="plotly is not installed")
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>\u2028&amp; it's"


def record(width, accuracy, latency, **fields):
    return Record(
        point=dn.Subnet((int(32 * width),), (8, 8)), accuracy=accuracy, error=1 - accuracy, loss=2 - 2 * accuracy,
        accuracy_interval=(accuracy - 0.02, accuracy + 0.02), latency_ms=latency, bytes=int(1e5 * width),
        macs=int(1e6 * width), **fields,
    )  # fmt: skip


def make_front(name="wide"):
    records = [
        record(0.25, 0.80, 1.0, name="0.25", accuracy_test=0.79, latency_ms_p10=0.9, latency_ms_p90=1.4),
        record(0.5, 0.90, 2.0, accuracy_test=0.88), record(0.75, 0.92, 3.0), record(1.0, 0.93, 4.0, name=name),
    ]  # fmt: skip
    rest = [record(0.3, 0.75, 2.5), record(0.4, 0.7, 2.2, name="named"), Record(point=dn.Subnet((8,)), failure="no")]
    front = dn.Front(None, records, evaluated=[*records, *rest], machine=Machine("test CPU"), hashes={}, seed=3)
    return front.add("paper", accuracy=0.91, latency_ms=2.5)


def held(path):
    """What the page knows."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S
    )
    return json.loads(found[0])


def test_the_page_holds_every_evaluated_point_and_no_failure(tmp_path):
    path = make_front().explorer(tmp_path / "front.html")
    body = held(path)
    assert [p["label"] for p in body["points"]] == ["0.25", "16", "24", "wide", "9", "named"]
    assert [p["front"] for p in body["points"]] == [True] * 4 + [False] * 2
    assert body["points"][0]["ranges"]["latency_ms"] == [0.9, 1.4] and body["knee"] == 1
    assert [c["key"] for c in body["columns"]] == ["latency_ms", "accuracy", "accuracy_test", "bytes", "macs", "loss"]
    assert "test CPU, not the machine" in body["about"] and "4 points of 7 evaluated. Seed 3." in body["about"]


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    from plotly.offline import get_plotlyjs

    text = make_front().explorer(tmp_path / "front.html").read_text(encoding="utf-8")
    assert get_plotlyjs() in text and "default-src 'none'" in text
    own = text.replace(get_plotlyjs(), "")
    assert not re.search(r"https?://|<script[^>]+src|<link|@import|url\(", own) and "@" + "DATA" not in own


def test_a_hostile_name_stays_a_text(tmp_path):
    front = make_front(HOSTILE)
    path = front.explorer(tmp_path / "front.html")
    assert held(path)["points"][3]["label"] == HOSTILE
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "\u2028" not in text.split('id="data">')[1].split("</script>")[0]


def test_regressions_have_a_page_by_their_error(tmp_path):
    some = [Record(point=dn.Subnet((8 * i,)), error=1 / i, loss=1 / i, latency_ms=float(i)) for i in (1, 2, 4)]
    body = held(dn.Front(None, some, hashes={}).explorer(tmp_path / "front.html"))
    assert body["quality"] == "error" and [c["key"] for c in body["columns"]] == ["latency_ms", "error"]
    assert not any(c["high"] for c in body["columns"]) and body["columns"][1]["label"] == "mean squared error"


def test_an_empty_front_has_no_page(tmp_path):
    with pytest.raises(LookupError, match="no points"):
        dn.Front(None, [], hashes={}).explorer(tmp_path / "front.html")


def test_without_plotly_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[explorer\]"'):
        make_front().explorer(tmp_path / "front.html")
    assert not (tmp_path / "front.html").exists()


def test_the_code_ships_the_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = dn.datasets.shapes(200, rng=0)
    net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    device = dn.Device.from_speed(50, 1e10)
    front = dn.explore(net, data, device=device, population=8, budget=12, progress=False, rng=0)
    front.network.save("model.safetensors")
    for shown in _explorer.describe(front, "model.safetensors")["points"]:
        names = {"data": data}
        exec(shown["code"], names)
        record = next(r for r in front.evaluated if r.label == shown["label"])
        x = data.test.x[:4]
        whole = net.copy()
        whole.recalibrate(data.calibration.x, points=[record.point])
        assert np.allclose(dn.load("shipped.safetensors")(x), whole(x, record.point), atol=1e-5)
        assert names["engine"].active is not None


def test_names_are_quoted_in_the_code():
    shown = _explorer.code(record(1.0, 0.9, 1.0, name=HOSTILE, model="it's"), True, {"it's": "a'b.safetensors"})
    assert compile(shown, "shown", "exec") and repr(HOSTILE) in shown and repr("a'b.safetensors") in shown


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if browser.executable() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed, and CHROME names none")
    folder = tmp_path_factory.mktemp("explorer")
    path = make_front(HOSTILE).explorer(folder / "front.html", model="digits.safetensors")
    one = browser.Browser(folder / "profile")
    try:
        one.open(path.as_uri())
        yield one
    finally:
        one.close()


TEXT = "document.getElementById({!r}).textContent"


def place(page, name, index):
    """Where a marker of a trace is on the screen."""
    at = page.value(f"""(() => {{
        const gd = document.getElementById("plot"), t = gd.data.find(t => t.name === {name!r}), full = gd._fullLayout;
        const box = gd.getBoundingClientRect(), a = full.xaxis, b = full.yaxis;
        return [box.left + a._offset + a.d2p(t.x[{index}]), box.top + b._offset + b.d2p(t.y[{index}])];
    }})()""")
    return at


def limit(page, column, value):
    page.value(f"""(() => {{ const box = document.getElementById("limit-{column}"); box.value = "{value}";
        box.dispatchEvent(new Event("input")); }})()""")


@pytest.fixture
def fresh(page):
    page.value('document.getElementById("reset").click()')
    page.value("Plotly.Fx.unhover('plot')")
    return page


def test_at_first_the_knee_is_chosen(fresh):
    assert fresh.value(TEXT.format("why")) == "The knee of the front."
    assert "dn.Subnet((16,), (8, 8), ())" in fresh.value(TEXT.format("code"))
    assert fresh.value(TEXT.format("count")).startswith("4 of 4")


def test_hovering_shows_the_figures_of_a_point(fresh):
    fresh.hover(*place(fresh, "on the front", 0))
    fresh.wait("document.querySelector('.hoverlayer .hovertext') !== null")
    text = fresh.value("document.querySelector('.hoverlayer').textContent")
    assert "0.25" in text and "accuracy (%): 80.0 % [78.0 %, 82.0 %]" in text and "(ms): 1 [0.9, 1.4]" in text


def test_a_hostile_name_is_shown_as_it_is_and_runs_nothing(fresh):
    fresh.hover(*place(fresh, "on the front", 3))
    fresh.wait("document.querySelector('.hoverlayer').textContent.includes('onerror')")
    assert "<script>window.hurt=1" in fresh.value("document.getElementById('rows').textContent")
    assert fresh.value("typeof window.hurt") == "undefined" and fresh.value("document.images.length") == 0


def test_a_click_chooses_a_point_and_shows_its_code(fresh):
    fresh.click(*place(fresh, "on the front", 2))
    fresh.wait(f"{TEXT.format('why')} === 'Clicked.'")
    code = fresh.value(TEXT.format("code"))
    assert "dn.load('digits.safetensors'), dn.Subnet((24,), (8, 8), ())" in code and "net.slice(point).save" in code
    assert fresh.value("document.querySelector('tr.chosen button').textContent") == "24"
    fresh.value('document.getElementById("best").click()')
    assert fresh.value(TEXT.format("why")) == "The knee of the front."


def test_limits_choose_as_pick_does(fresh):
    limit(fresh, "latency_ms", 3.5)
    assert fresh.value(TEXT.format("count")).startswith("3 of 4")
    assert (
        fresh.value("document.querySelector('tr.chosen button').textContent") == make_front().pick(latency_ms=3.5).label
    )
    limit(fresh, "accuracy", 85)
    assert fresh.value("document.querySelectorAll('#rows tr').length") == 2
    limit(fresh, "bytes", 10)
    assert fresh.value(TEXT.format("why")) == "No point of the front is within these limits."
    assert (
        fresh.value(TEXT.format("code")) == "" and fresh.value("document.getElementById('limit-accuracy_test')") is None
    )


def test_other_columns_can_be_drawn(fresh):
    select = 'const x = document.getElementById("x"); x.value = "{}"; x.dispatchEvent(new Event("change"));'
    fresh.value(f"(() => {{ {select.format('bytes')} }})()")
    drawn = fresh.value("document.getElementById('plot').data.find(t => t.name === 'on the front').x")
    assert drawn == [25e3, 5e4, 75e3, 1e5]
    fresh.value(f"(() => {{ {select.format('latency_ms')} }})()")


def test_a_click_on_a_row_chooses_it(fresh):
    fresh.value("document.querySelectorAll('#rows button')[0].click()")
    assert "'0.25'" in fresh.value(TEXT.format("code"))


def test_the_page_raises_no_error_and_asks_no_network(page):
    assert page.problems() == []
