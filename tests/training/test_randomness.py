import torch

from fakesound.training.randomness import (
    decode_random_state,
    encode_random_state,
    random_states,
    restore_generators,
    seed_generators,
)
from fakesound.training.ranks import Ranks

CPU = torch.device("cpu")


def test_a_generator_goes_on_where_it_was():
    generator = torch.Generator().manual_seed(5)
    text = encode_random_state(generator.get_state())
    drawn = torch.rand(4, generator=generator)
    generator.set_state(decode_random_state(text))
    assert torch.equal(drawn, torch.rand(4, generator=generator))


def test_the_global_generator_is_told_and_restored():
    with torch.random.fork_rng():
        (state,) = random_states(Ranks(), CPU)
        drawn = torch.rand(4)
        torch.manual_seed(123)
        restore_generators(state, CPU)
        assert torch.equal(drawn, torch.rand(4))


def test_seeds_differ_between_processes_and_steps():
    with torch.random.fork_rng():
        draws = set()
        for rank, step in ((0, 0), (1, 0), (0, 1)):
            seed_generators(7, rank, step)
            draws.add(float(torch.rand(())))
    assert len(draws) == 3
