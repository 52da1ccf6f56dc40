import pytest

from fakesound.attacks.command import CommandConfig
from fakesound.attacks.registry import (
    ATTACKS,
    get_attack,
    known_attacks,
    plugin_distributions,
    require_new,
)
from fakesound.core.errors import UserError


def test_registry_is_consistent():
    assert all(family == attack.family for family, attack in ATTACKS.items())
    for cousins in (
        ("noise_vocoder", "lpc_vocoder", "world"),
        ("griffin_lim", "phase_randomisation"),
        ("autoregressive", "janssen", "spain"),
    ):
        mechanism = ATTACKS[cousins[0]].mechanism
        assert tuple(f for f, attack in ATTACKS.items() if attack.mechanism == mechanism) == cousins


def test_unknown_family_names_the_known_ones(install_plugin):
    install_plugin("silent", hush="silent_attacks:HUSH")
    with pytest.raises(UserError, match=r"'vall-e'.*griffin_lim.*splice.*hush"):
        get_attack("vall-e")


def test_a_plug_in_is_found_and_listed_with_its_distribution(install_plugin):
    install_plugin("silent", hush="silent_attacks:HUSH")
    assert get_attack("hush").mechanism == "silence"
    known = known_attacks()
    assert [*known] == [*ATTACKS, "hush"]
    assert known["hush"][1] == "silent 1.2" and known["nmf"] == (ATTACKS["nmf"], "built in")
    assert plugin_distributions(["nmf", "hush", "a command's"]) == {"hush": "silent 1.2"}


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"hush": "odd_attacks:NUMBER"}, "plug-in odd 1.2: odd_attacks:NUMBER is no Attack.*but 5"),
        ({"shush": "odd_attacks:HUSH"}, "plug-in odd 1.2: .* is no Attack of the family 'shush'"),
        ({"hush": "odd_attacks:LOUD"}, "plug-in odd 1.2: .* cannot be loaded: AttributeError"),
        ({"hush": "nowhere_at_all:HUSH"}, "plug-in odd 1.2: .* cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_plug_in_that_is_no_attack_is_named(install_plugin, entries, complaint):
    install_plugin("odd", **entries)
    with pytest.raises(UserError, match=complaint):
        get_attack(next(iter(entries)))
    with pytest.raises(UserError, match=complaint):
        known_attacks()
    assert get_attack("nmf") is ATTACKS["nmf"]  # what nobody asks for harms nobody


@pytest.mark.parametrize("family", ["nmf", "genuine"])
def test_a_plug_in_may_not_take_a_name_of_ours(install_plugin, family):
    install_plugin("odd", **{family: "odd_attacks:HUSH"})
    with pytest.raises(UserError, match=f"plug-in odd 1.2: family '{family}' is built in"):
        get_attack("griffin_lim")


def test_two_plug_ins_may_not_share_a_name(install_plugin):
    install_plugin("one", hush="one_attacks:HUSH")
    install_plugin("two", hush="two_attacks:HUSH")
    with pytest.raises(
        UserError, match=r"plug-ins (one 1.2 and two|two 1.2 and one) 1.2: both bring .*'hush'"
    ):
        get_attack("griffin_lim")


def test_commands_are_families_with_names_of_their_own(install_plugin):
    install_plugin("silent", hush="silent_attacks:HUSH")

    def command(family):
        return CommandConfig(family=family, mechanism="m", command="x {input} {output}")

    assert get_attack("mine", [command("mine")]).mechanism == "m"
    require_new([command("mine"), command("yours")])
    for taken in (["nmf"], ["hush"], ["genuine"], ["mine", "mine"]):
        with pytest.raises(UserError, match=f"command '{taken[-1]}': there is a family of that name"):
            require_new([command(family) for family in taken])
