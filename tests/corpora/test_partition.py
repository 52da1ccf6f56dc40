import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.schemas import PARTITIONS
from fakesound.corpora.config import CorpusConfig, Shares
from fakesound.corpora.partition import LEAST_COMPONENTS, partition_components


@settings(max_examples=60)
@given(st.lists(st.floats(0.3, 500), min_size=5, max_size=60), st.integers(0, 99))
def test_every_partition_has_what_it_needs(amounts: list[float], seed: int) -> None:
    named = {f"c{index}": amount for index, amount in enumerate(amounts)}
    assigned = partition_components(named, Shares(), seed)
    assert set(assigned) == set(named)
    for partition, least in LEAST_COMPONENTS.items():
        assert list(assigned.values()).count(partition) >= least


def test_shares_are_met_and_the_seed_matters() -> None:
    named = {f"c{index}": 1 + index % 7 for index in range(300)}
    assigned = partition_components(named, Shares(), 0)
    total = sum(named.values())
    for partition in PARTITIONS:
        share = sum(named[name] for name, place in assigned.items() if place == partition) / total
        assert abs(share - Shares().of(partition)) < 0.01
    assert assigned == partition_components(named, Shares(), 0) != partition_components(named, Shares(), 1)


def test_a_few_big_components_spread_over_all_partitions() -> None:
    named = {f"speaker{index}": 100.0 for index in range(4)} | {f"c{index}": 2.0 for index in range(1_000)}
    assigned = partition_components(named, Shares(), 0)
    assert {assigned[name] for name in named if name.startswith("speaker")} == set(PARTITIONS)


def test_too_few_sources_are_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="4 independent sources are not enough: at least 5"):
        partition_components(dict.fromkeys("abcd", 1.0), Shares(), 0)


DUBBED = {"family": "dubbed", "mechanism": "copy_move", "command": "dub {input} {output}"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"shares": {"train": 0.9}}, "add up to"),
        ({"group_pattern": "("}, "regular expression"),
        ({"group_pattern": "abc"}, "group"),
        ({"min_clip_s": 5, "clip_s": 4}, "min_clip_s"),
        ({"protocol": {"seen": ["nonsense"]}}, "no attack family 'nonsense'"),
        ({"protocol": {"seen": []}}, "names no attack"),
        ({"protocol": {"seen": ["noise_vocoder"]}}, "mechanism 'vocoder' is in both seen and test_unseen"),
        ({"protocol": {"test_unseen": ["phase_randomisation"]}}, "is in both"),
        (
            {"protocol": {"apart": ["copy_move"]}},
            r"copy_move, which makes the genuine splices: .* \(docs/decisions/0002",
        ),
        ({"protocol": {"apart": ["dubbed"]}, "commands": [DUBBED]}, "copy_move, which makes the genuine"),
        ({"protocol": {"apart": ["nobody"]}}, "no attack family 'nobody'"),
        ({"commands": [DUBBED | {"family": "nmf"}]}, "command 'nmf': there is a family of that name"),
        ({"chain": {"noise_probability": 2}}, "noise_probability"),
        ({"builtin": {"min_duration_s": 7}}, "exceeds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_configurations_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        CorpusConfig.parse(values)
