from __future__ import annotations

import pytest
import torch

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.training import Samples
from lrbench_hpo.training.data.batches import (
    PADDING,
    Batches,
    CroppedSamples,
    DeviceSamples,
    Pixels,
    pixels_for,
)

CPU = torch.device("cpu")
AS_STORED = Pixels(torch.ones(1, 1, 1, 1), None)


def random_samples(count=50, channels=3, side=8):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    images = torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)
    return Samples(images, torch.arange(count))


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_epoch_shows_each_image_once_with_its_label(channels_last):
    samples = random_samples()
    stored = DeviceSamples(samples, CPU, channels_last=channels_last)
    batches = Batches(stored, AS_STORED, 8, seed=1)
    epochs = []
    for _ in range(2):
        seen = []
        for _ in range(6):  # 50 // 8: two images are left out
            images, labels = batches.next()
            assert torch.equal(images, samples.images[labels].float())
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert images.is_contiguous(memory_format=layout)
            seen += labels.tolist()
        assert len(set(seen)) == 48
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_batches_depend_on_their_seed_alone():
    stored = DeviceSamples(random_samples(), CPU, channels_last=True)
    torch.manual_seed(1)
    streams = [Batches(stored, AS_STORED, 8, seed) for seed in (3, 3, 4)]
    torch.manual_seed(2)
    labels = [[stream.next()[1].tolist() for _ in range(10)] for stream in streams]
    assert labels[0] == labels[1]
    assert labels[0] != labels[2]


def test_a_batch_larger_than_the_data_is_one_line():
    stored = DeviceSamples(random_samples(), CPU, channels_last=True)
    with pytest.raises(TrainingError, match="batch_size=51: larger than the 50 training images"):
        Batches(stored, AS_STORED, 51, seed=0)


def test_crops_are_shifts_and_mirror_images_of_their_image():
    samples = random_samples(count=20)
    cropped = CroppedSamples(samples, CPU)
    padded = torch.nn.functional.pad(samples.images, (PADDING,) * 4)
    batches = Batches(cropped, AS_STORED, 20, seed=0)
    places = []
    for _ in range(60):
        images, labels = batches.next()
        assert images.is_contiguous(memory_format=torch.channels_last)
        for index in range(20):
            row, column, mirrored = batches._places[0, :, index].tolist()
            expected = padded[labels[index], :, row : row + 8, column : column + 8]
            assert torch.equal(images[index], (expected.flip(-1) if mirrored else expected).float())
            places.append((row, column, mirrored))
    drawn = torch.tensor(places, dtype=torch.float64)
    assert {row for row, _, _ in places} == {column for _, column, _ in places} == set(range(9))
    # 1,200 draws: means within five standard errors of 4, 4 and 1/2.
    errors = (drawn.mean(0) - torch.tensor([4, 4, 0.5])) / drawn.std(0) * 1200**0.5
    assert errors.abs().max() < 5


def test_pixel_scales_are_their_formulas():
    samples = random_samples()
    x = samples.images.double()
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True, correction=0)
    expected = {"unit": x / 255, "caffe": x - mean, "standard": (x - mean) / std}
    as_float = Samples(samples.images.float() / 255, samples.labels)
    for kind, values in expected.items():
        for given in (samples, as_float):
            found = pixels_for(kind, given, CPU)(given.images)
            assert found.dtype == torch.float32
            assert torch.allclose(found.double(), values, atol=1e-4)


def test_a_channel_without_contrast_stays_finite():
    samples = Samples(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.arange(4))
    assert not pixels_for("standard", samples, CPU)(samples.images).any()


def test_an_unknown_pixel_scale_is_one_line():
    with pytest.raises(UnknownNameError, match="standard"):
        pixels_for("standart", random_samples(), CPU)
