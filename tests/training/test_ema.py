import pytest
import tiny
import torch
from tiny import last_checkpoint, place_of

from fakesound.training.ema import WeightAverage
from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train


def test_the_average_is_its_formula():
    detector = tiny.build_by_chance(None, 4)
    average = WeightAverage(detector, decay=0.3)
    expected = {name: p.detach().double().clone() for name, p in detector.named_parameters()}
    for step in range(6):
        decay = min(0.3, (1 + step) / (10 + step))
        for name, parameter in detector.named_parameters():
            parameter.data.add_(torch.randn_like(parameter))
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
        average.update(step)
    for name, tensor in average.tensors().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_weights_come_back_bit_for_bit():
    detector = tiny.build_by_chance(None, 4)
    average = WeightAverage(detector, decay=0.9)
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    average.load({name: torch.full_like(p, 7.0) for name, p in before.items()})
    with pytest.raises(KeyError), average.in_place_of_weights():
        assert all((p == 7).all() for p in detector.parameters())
        raise KeyError
    assert all(torch.equal(p, before[name]) for name, p in detector.named_parameters())


def test_what_is_validated_and_bundled_is_the_average(tiny_model, make_request, monkeypatch):
    request, scored = make_request(epochs=1, ema_decay=0.5), []
    from fakesound.training import trainer

    real = trainer.score_partition

    def spy(detector, *args, **kwargs):
        scored.append({name: p.detach().clone() for name, p in detector.named_parameters()})
        return real(detector, *args, **kwargs)

    monkeypatch.setattr(trainer, "score_partition", spy)
    train(request, Ranks())
    checkpoint = last_checkpoint(request)
    weights, average = checkpoint.part("model"), checkpoint.part("ema")
    assert average.keys() == scored[0].keys()
    assert all(torch.equal(scored[0][name], average[name]) for name in average)
    assert not any(torch.equal(weights[name], average[name]) for name in average)
    from safetensors.torch import load

    bundled = load(place_of(request).read_bytes("detector/model.safetensors"))
    assert all(torch.equal(bundled[name], average[name]) for name in average)
    assert torch.equal(bundled["network.norm.running_mean"], weights["network.norm.running_mean"])


def test_it_is_off_by_default_and_leaves_the_weights_alone_when_on(tiny_model, make_request):
    plain, averaged = make_request("plain"), make_request("averaged", ema_decay=0.9)
    train(plain, Ranks())
    train(averaged, Ranks())
    one, two = last_checkpoint(plain), last_checkpoint(averaged)
    assert not one.part("ema")
    assert all(torch.equal(value, two.part("model")[name]) for name, value in one.part("model").items())
