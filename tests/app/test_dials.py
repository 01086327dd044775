"""Options by name, by notch, by preset; kept with a conversation. By literal tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from medusa_chat.app.dial import Setup
from medusa_chat.app.dials import Dials
from medusa_chat.app.presets import PRESETS, apply_preset, preset_in_force
from medusa_chat.app.stored_options import options_from_json, options_to_json
from medusa_chat.errors import UsageError
from medusa_chat.records import SamplingOptions

SETUP = Setup(SamplingOptions(), None, "textual-dark")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("temperature 0.75", "temperature", 0.75),
        ("top-p off", "top_p", 1.0),
        ("top-k off", "top_k", 0),
        ("min-p  0.05 ", "min_p", 0.05),
        ("max-tokens 300", "max_tokens", 300),
        ("seed 7", "seed", 7),
        ("seed auto", "seed", None),
        ("acceptance typical", "acceptance", "typical"),
        ("drafting off", "drafting", False),
        ("tree zephyr_stage2", "tree", "zephyr_stage2"),
        ("tree-size 16", "tree_size", 16),
        ("tree-size auto", "tree_size", None),
        ("context keep-first", "context", "keep-first"),
        ("preset creative", "min_p", 0.1),
    ],
)
def test_set_by_exact_name(line: str, field: str, value: Any) -> None:
    options = Dials().obey(SETUP, line).options
    assert getattr(options, field) == value
    assert type(getattr(options, field)) is type(value)


def test_set_system_and_theme() -> None:
    setup = Dials().obey(SETUP, "system Be brief,  please.\x1b")
    assert setup.system == "Be brief,  please."
    assert Dials().obey(setup, "system none").system is None
    assert Dials().obey(setup, "theme nord") == Setup(SETUP.options, "Be brief,  please.", "nord")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("temperature", "/set takes an option and a value; temperature takes a number from 0 to 5"),
        ("temperature hot", "temperature takes a number from 0 to 5"),
        ("temperature 9", "Temperature must lie between 0 and 5, not 9"),
        ("temperature nan", "Temperature must lie between 0 and 5, not nan"),
        ("top-p 0", "Top-p must be above 0 and at most 1, not 0"),
        ("top-k 2.5", "top-k takes a whole number, or off"),
        ("top-k -1", "Top-k must be 0 .off. or a positive number"),
        ("min-p 1", "Min-p must be at least 0 and below 1"),
        ("max-tokens 0", "at least 1, not 0"),
        ("seed -1", "The seed must lie between 0 and"),
        ("seed 1" + "0" * 5000, "seed takes a whole number from 0, or auto"),
        ("acceptance exat", r"acceptance takes exact or typical\. Did you mean exact\?"),
        ("drafting maybe", "drafting takes on or off"),
        ("tree-size 65", "The tree size must lie between 1 and 64 nodes, not 65"),
        ("tree zephyr_stage3", r"or a file of paths\. Did you mean zephyr_stage2\?"),
        ("context stopp", r"context takes drop-oldest, keep-first or stop\. Did you mean stop\?"),
        ("theme drakula", r"Did you mean dracula\?"),
        ("preset creativ", r"preset takes precise, balanced, creative or mine\. Did you mean creative\?"),
        ("tempertaure 1", r"There is no option 'tempertaure'\. Did you mean temperature\?"),
        ("\x1b 1", "There is no option ''. Known: preset, temperature, "),
    ],
)
def test_what_can_not_be_set_is_told(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Dials({"mine\x1b": SamplingOptions(top_p=0.3)}).obey(SETUP, line)


def test_a_tree_with_a_size_of_its_own_lets_the_other_size_go(tmp_path: Path) -> None:
    sized = Dials().obey(SETUP, "tree-size 16")
    assert Dials().obey(sized, "tree static").options.tree_size == 16
    published = Dials().obey(sized, "tree mc_sim_7b_63")
    assert published.options.tree_size is None
    with pytest.raises(UsageError, match="has a size of its own"):
        Dials().obey(published, "tree-size 16")
    with pytest.raises(UsageError, match="has a size of its own"):
        Dials().step(published, "tree-size", 1)
    file = tmp_path / "tree.json"
    with pytest.raises(UsageError, match="tree takes"):
        Dials().obey(SETUP, f"tree {file}")
    file.write_text("[[0]]")
    assert Dials().obey(sized, f"tree {file}").options.tree == str(file)


@pytest.mark.parametrize(
    ("name", "before", "notches", "after"),
    [
        ("max-tokens", "1000", 1, "1024"),
        ("max-tokens", "16384", 5, "16384"),
        ("min-p", "off", 1, "0.01"),
        ("min-p", "0.9", -1, "0.5"),
        ("seed", "auto", 1, "0"),
        ("seed", "0", -1, "auto"),
        ("seed", "1000", -5, "95"),
        ("tree-size", "auto", 5, "5"),
        ("tree-size", "62", 5, "64"),
        ("tree-size", "3", -5, "auto"),
        ("temperature", "4", -1, "2"),
        ("top-k", "150", 1, "off"),
        ("top-k", "150", -1, "100"),
        ("acceptance", "exact", 5, "typical"),
        ("context", "stop", 1, "drop-oldest"),
        ("theme", "textual-dark", -1, "ansi-light"),
        ("preset", "balanced", 1, "creative"),
        ("preset", "balanced", -1, "precise"),
        ("system", "Be brief.", 1, "Be brief."),
    ],
)
def test_notches(name: str, before: str, notches: int, after: str) -> None:
    dials = Dials()
    setup = dials.step(dials.set(SETUP, name, before), name, notches)
    assert dials[name].shown(setup) == after


def test_every_value_shown_can_be_typed_again() -> None:
    dials = Dials()
    for dial in dials:
        for notches in (-5, -1, 0, 1, 5):
            setup = dials.step(SETUP, dial.name, notches) if notches else SETUP
            assert dials.set(SETUP, dial.name, dial.shown(setup)) == setup


def test_sliders_know_where_they_stand() -> None:
    for dial in Dials():
        share = dial.scale.share(dial.value(SETUP))
        if share is not None:
            assert 0 <= share <= 1
            assert dial.scale.at(0) != dial.scale.at(1)
    top_k = Dials()["top-k"].scale
    assert (top_k.share(1), top_k.share(0), top_k.at(1.0), top_k.at(0.0)) == (0.0, 1.0, 0, 1)


def test_values_for_completion() -> None:
    values = Dials({"mine": SamplingOptions()}).values
    assert values["preset"] == ("precise", "balanced", "creative", "mine")
    assert values["temperature"] == "a number from 0 to 5, such as 0.7"
    assert values["drafting"] == ("on", "off")


def test_the_listing_names_defaults_where_they_differ() -> None:
    setup = Dials().obey(Dials().obey(SETUP, "top-k 7"), "acceptance typical")
    lines = Dials().listing(setup, SETUP).splitlines()
    assert "top-k        7  (default off)" in lines
    assert "acceptance   typical (lossy)  (default exact)" in lines
    assert "system       none" in lines
    assert len(lines) == len(tuple(Dials()))


# Presets


def test_presets_come_and_go_without_a_trace() -> None:
    changed = SamplingOptions(max_tokens=50, drafting=False)
    for name, preset in PRESETS.items():
        assert preset_in_force(apply_preset(changed, preset), PRESETS) == name
        assert apply_preset(apply_preset(changed, preset), PRESETS["balanced"]) == changed
    assert preset_in_force(SamplingOptions(temperature=0.33), PRESETS) is None
    assert PRESETS["balanced"] == SamplingOptions()


def test_a_preset_of_the_users_own_may_set_more() -> None:
    mine = SamplingOptions(temperature=0.5, max_tokens=9, acceptance="typical")
    dials = Dials({"mine": mine, "precise": SamplingOptions(temperature=0.1)})
    setup = dials.obey(SETUP, "preset mine")
    assert setup.options == mine
    assert dials["preset"].shown(setup) == "mine"
    assert dials.obey(SETUP, "preset precise").options.temperature == 0.1
    assert dials["preset"].shown(dials.obey(setup, "temperature 0.6")) == "own values"


def test_a_preset_that_can_not_be_had_with_the_rest_is_refused() -> None:
    dials = Dials({"wide": SamplingOptions(tree_size=64)})
    assert dials.obey(SETUP, "preset wide").options.tree_size == 64
    published = dials.obey(SETUP, "tree zephyr_stage2")
    with pytest.raises(UsageError, match="has a size of its own"):
        dials.obey(published, "preset wide")


# Kept with a conversation

DEFAULTS = SamplingOptions(temperature=0.7, tree_size=16)


@pytest.mark.parametrize(
    "options",
    [
        DEFAULTS,
        SamplingOptions(),
        SamplingOptions(seed=2**62, stop=("\x1b", "ü"), tree="static", context="stop", drafting=False),
        SamplingOptions(tree="zephyr_stage2"),
    ],
)
def test_options_come_back_as_they_were(options: SamplingOptions) -> None:
    assert options_from_json(options_to_json(options, DEFAULTS), DEFAULTS) == (options, None)


def test_only_what_differs_is_kept() -> None:
    assert options_to_json(DEFAULTS, DEFAULTS) == "{}"
    assert options_to_json(SamplingOptions(tree_size=16), DEFAULTS) == '{"temperature": 0.2}'
    assert options_from_json('{"top_k": 3}', DEFAULTS)[0] == SamplingOptions(
        temperature=0.7, tree_size=16, top_k=3
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "can't be read; the defaults are used"),
        ("[1]", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ('{"warmth": 1, "top_k": 3, "min_p": 7, "stop": 3}', r"were ignored: warmth, min_p, stop\.$"),
        ('{"\\u001b[2J": 1, "top_k": 3}', r"were ignored: \[2J\.$"),
        ('{"tree": "zephyr_stage2", "top_k": 3}', r"were ignored: tree, top_k\.$"),
    ],
)
def test_what_another_version_kept_is_ignored_with_one_remark(text: str, said: str) -> None:
    options, remark = options_from_json(text, DEFAULTS)
    kept = "warmth" in text or "2J" in text
    assert options == (SamplingOptions(temperature=0.7, tree_size=16, top_k=3) if kept else DEFAULTS)
    assert remark is not None
    assert re.search(said, remark)
