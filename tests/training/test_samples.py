import numpy as np
import torch

from fakesound.core.store import Pointer
from fakesound.features.reader import FeatureSet
from fakesound.training.data import ClipBank
from fakesound.training.ranks import Ranks
from fakesound.training.reports import Quiet
from fakesound.training.samples import samples_of
from fakesound.training.trainer import train
from fakesound.training.validate import Scores


def bank_of(pointer: Pointer, partition="validation") -> ClipBank:
    features = FeatureSet.open(pointer)
    return ClipBank.read(features, partition, features.metadata["protocol"])


def test_samples_are_of_both_classes_with_what_was_said_of_them(tiny_features):
    bank = bank_of(tiny_features)
    frames = torch.linspace(-3, 3, len(bank.frame_labels))
    samples = list(samples_of(bank, Scores(torch.linspace(-1, 1, len(bank)), frames)))
    assert [bool(sample.frame_labels_F.any()) for sample in samples] == [True, True, False]
    table = bank.features.table.to_pylist()
    for sample in samples:
        index = next(k for k, row in enumerate(bank.rows) if table[row]["clip_id"] == sample.clip_id)
        features, labels = bank.clip(index)
        np.testing.assert_array_equal(sample.features_FM, features)
        np.testing.assert_array_equal(sample.frame_labels_F, labels == 1)
        said = torch.sigmoid(frames[bank.starts[index] : bank.starts[index + 1]].double())
        np.testing.assert_allclose(sample.frame_probabilities_F, said)
        assert sample.family == table[bank.rows[index]]["family"]


def test_a_partition_without_forged_clips_shows_what_it_has(tiny_features):
    bank = bank_of(tiny_features)
    bank.labels[:] = 0
    (sample,) = samples_of(bank, Scores(torch.zeros(len(bank)), torch.zeros(len(bank.frame_labels))))
    assert sample.clip_probability == 0.5


def test_a_training_shows_samples_every_few_epochs_and_at_its_end(tiny_model, make_request):
    shown = []

    class Shown(Quiet):
        def on_samples(self, epoch, samples):
            shown.append((epoch, len(samples)))

    train(make_request(epochs=5, samples_every_epochs=2), Ranks(), Shown())
    assert shown == [(2, 6), (4, 6), (5, 6)]
