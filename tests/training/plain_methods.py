"""The losses of the four methods in plain form, one row after the other, and inputs in float64 to hold them against.

B: batch, D: scaled features, A: attributes, K: noise, Z: embedding, S: seen classes.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from tests.training.tiny import config, task
from training.datasets.dataset import Task
from training.generators import new_method
from training.generators.base import Method, RealBatch, Terms
from training.generators.cegzsl import CeGzsl
from training.generators.diffusion import Diffusion
from training.generators.tfvaegan import TfVaegan
from training.generators.wgan import Wgan
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import location

D, S = 6, 4
BATCHES = {  # rows of the task; it has 5 of each of the 4 seen classes
    "mixed": [0, 5, 1, 16, 2, 11, 6],
    "one class": [5, 6, 7, 8],
    "one row": [3],
    "all classes once": [0, 5, 10, 15],
    "zero rows": [0, 5, 1, 6],  # features are set to 0
}


def mixed_task() -> Task:
    """Seen classes are not the first, so that the teacher's labels are others; float64."""
    made = task(seen=S, unseen=2, rows=5, dim=D)
    order = torch.tensor([4, 0, 1, 5, 2, 3])  # old class of each new one
    place = torch.argsort(order)
    return dataclasses.replace(
        made,
        features=made.features.double(),
        labels=place[made.labels],
        attributes=made.attributes[order].double(),
        seen=made.seen[order],
    )


def made(small: Task, method: str, *settings: str) -> Method:
    """A method with teacher and student, weights large enough that every path shows."""
    chosen = config(f"generator.method={method}", *settings)
    torch.manual_seed(1)
    teacher = Teacher(feature_dim=D, dim=D, seen_classes=S, init="identity")
    student = Student(feature_dim=D, dim=D, classes=6, init="identity", confidence_w=1.0, confidence_b=0.0)
    built = new_method(small, teacher, student, chosen)
    torch.manual_seed(2)  # whatever the method drew
    for module in (teacher, student, built):
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0, 0.4)
    teacher.requires_grad_(False)
    return built.double()


def batch(small: Task, name: str) -> RealBatch:
    rows = torch.tensor(BATCHES[name])
    labels = small.labels[rows]
    features = torch.zeros(len(rows), D) if name == "zero rows" else small.features[rows]
    return RealBatch(
        features=features,
        attributes=small.attributes[labels],
        labels=labels,
        teacher_labels=small.teacher_labels[rows],
    )


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- plain forms: one row after the other ---------------------------------------------------------


def sampled(method: Method, noise: Tensor, attributes: Tensor) -> Tensor:
    rows = zip(noise, attributes, strict=True)
    return torch.cat([method.sampler(e[None], a[None]) for e, a in rows])


def plain_critic(method: Wgan, real: RealBatch, fake: Tensor, random: torch.Generator) -> Terms:
    """Gradient penalty by autograd twice over mixed rows, as published."""
    mix, critic = torch.rand(len(fake), 1, generator=random), method.critic
    distance, penalty = torch.zeros(()), torch.zeros(())
    for x, x_fake, a, share in zip(real.features, fake, real.attributes, mix, strict=True):
        distance = distance + (critic(x_fake[None], a[None]) - critic(x[None], a[None])).squeeze() / len(fake)
        between = (share * x + (1 - share) * x_fake).requires_grad_()
        score = critic(between[None], a[None]).sum()
        (gradient,) = torch.autograd.grad(score, between, create_graph=True)
        penalty = penalty + (gradient.norm(2) - 1) ** 2 / len(fake)
    return {"wasserstein": distance, "penalty": method.config.generator.gp_weight * penalty}


def seen(method: Method, fake: Tensor, real: RealBatch) -> Tensor:
    """Weighted cross-entropy of the teacher."""
    rows = [
        -torch.log_softmax(method.teacher.classifier(method.teacher.embedding(x)), 0)[label]
        for x, label in zip(fake, real.teacher_labels, strict=True)
    ]
    return method.config.generator.seen_classification * torch.stack(rows).mean()


def plain_generator(method: Wgan, fake: Tensor, real: RealBatch) -> Terms:
    scores = [method.critic(x[None], a[None]) for x, a in zip(fake, real.attributes, strict=True)]
    return {"adversarial": -torch.cat(scores).mean(), "seen": seen(method, fake, real)}


def instance_contrast(z: list[Tensor], labels: list[int], temperature: float) -> Tensor:
    anchors = []
    for i, own in enumerate(labels):
        positives = [p for p, label in enumerate(labels) if p != i and label == own]
        if not positives or all(label == own for label in labels):
            continue
        others = torch.stack([(z[i] @ z[k] / temperature).exp() for k in range(len(z)) if k != i]).sum()
        anchors.append(torch.stack([-((z[i] @ z[p] / temperature).exp() / others).log() for p in positives]).mean())
    return torch.stack(anchors).mean() if anchors else torch.zeros(())


def class_contrast(method: CeGzsl, embedded: list[Tensor], labels: list[int], small: Task) -> Tensor:
    comparator, temperature = method.comparator, method.config.contrastive.class_temperature
    rows = []
    for h, label in zip(embedded, labels, strict=True):
        scores = []
        for index in small.seen_index.tolist():
            p, q = comparator.hidden_embeddings(h), comparator.hidden_attributes(small.attributes[index])
            scores.append(comparator.output(nn.functional.leaky_relu(p + q, 0.2)).squeeze())
        powers = (torch.stack(scores) / temperature).exp()
        rows.append(-(powers[label] / powers.sum()).log())
    return torch.stack(rows).mean()


def projected(method: CeGzsl, h: Tensor) -> Tensor:
    raw = method.projector.linear(h)
    return raw / raw.norm()


def plain_contrasts(method: CeGzsl, real: RealBatch, small: Task) -> Terms:
    embedded = [method.student.embedding(x) for x in real.features]
    z = [projected(method, h) for h in embedded]
    return {
        "instance": instance_contrast(z, real.labels.tolist(), method.config.contrastive.instance_temperature),
        "class": class_contrast(method, embedded, real.teacher_labels.tolist(), small),
    }


def plain_fake_contrasts(method: CeGzsl, fake: Tensor, real: RealBatch, small: Task) -> Terms:
    settings = method.config.contrastive
    embedded = [method.student.embedding(x) for x in fake]
    z = [projected(method, h) for h in embedded]
    z += [projected(method, method.student.embedding(x)) for x in real.features]
    return {
        "fake_instance": settings.instance_weight
        * instance_contrast(z, real.labels.tolist() * 2, settings.instance_temperature),
        "fake_class": settings.class_weight * class_contrast(method, embedded, real.teacher_labels.tolist(), small),
    }


def encoded(method: TfVaegan, x: Tensor, a: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Latent noise, and KL(N(mean, variance) || N(0, 1))."""
    mean, log_variance = (part[0] for part in method.encoder(x[None], a[None]))
    deviation = (log_variance / 2).exp()
    divergence = torch.stack([(m**2 + d**2 - 1) / 2 - d.log() for m, d in zip(mean, deviation, strict=True)]).sum()
    return mean + deviation * noise, divergence


def plain_tfvaegan(method: TfVaegan, real: RealBatch, random: torch.Generator) -> Terms:
    settings, count, size = method.config.vae, len(real.labels), method.sampler.noise_dim
    latent_noise, noise = torch.randn(count, size, generator=random), torch.randn(count, size, generator=random)
    fake = sampled(method, noise, real.attributes)
    terms = plain_generator(method, fake, real)
    reconstruction, divergence, semantic = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for x, x_fake, a, e in zip(real.features, fake, real.attributes, latent_noise, strict=True):
        latent, kl = encoded(method, x, a, e)
        wrong = (method.sampler(latent[None], a[None])[0] - x) / method.spread
        reconstruction = reconstruction + sum(w**2 for w in wrong) / len(wrong)
        divergence = divergence + kl / len(wrong)
        for y in (x, x_fake):
            semantic = semantic + (method.sampler.decoder(y[None])[0] - a).abs().sum() / 2
    return {
        **terms,
        "reconstruction": settings.weight * reconstruction / count,
        "divergence": settings.weight * divergence / count,
        "semantic": settings.semantic_weight * semantic / count,
    }


def plain_diffusion(method: Diffusion, real: RealBatch, random: torch.Generator) -> Terms:
    copies, count = method.config.diffusion.batches, len(real.labels)
    levels = torch.rand(copies * count, 1, generator=random)
    noises = torch.randn(copies * count, D, generator=random)
    errors = []
    for index, (level, noise) in enumerate(zip(levels, noises, strict=True)):
        x, a = real.features[index % count], real.attributes[index % count]
        network = method.sampler
        r = (x - location(network.attribute_path(a[None])[0], network.sampled_spread)) / network.spread
        angle = level * math.pi / 2
        noisy = angle.cos() * r + angle.sin() * noise
        guess = network.denoiser(noisy[None], a[None], level[None])[0]
        for direction, v in zip(network.directions.T, network.variances, strict=True):
            guess = (
                guess + angle.cos() * v / (angle.cos() ** 2 * v + angle.sin() ** 2) * (noisy @ direction) * direction
            )
        for feature, made, true in zip(x, guess, r, strict=True):
            errors.append((made - true) ** 2 if feature > 0 or made > true else torch.zeros(()))
    fake = sampled(method, torch.randn(count, D, generator=random), real.attributes)
    return {"denoising": torch.stack(errors).mean(), "seen": seen(method, fake, real)}


def plain_critic_step(method: Method, real: RealBatch, random: torch.Generator, small: Task) -> Terms:
    if not isinstance(method, Wgan):
        return {}
    noise = torch.randn(len(real.labels), method.sampler.noise_dim, generator=random)
    if isinstance(method, TfVaegan):  # the second half is reconstructed
        for row in range(len(noise) // 2, len(noise)):
            noise[row] = encoded(method, real.features[row], real.attributes[row], noise[row])[0].detach()
    fake = sampled(method, noise, real.attributes).detach()
    terms = plain_critic(method, real, fake, random)
    return {**terms, **plain_contrasts(method, real, small)} if isinstance(method, CeGzsl) else terms


def plain_generator_step(method: Method, real: RealBatch, random: torch.Generator, small: Task) -> Terms:
    if isinstance(method, Diffusion):
        return plain_diffusion(method, real, random)
    if isinstance(method, TfVaegan):
        return plain_tfvaegan(method, real, random)
    assert isinstance(method, Wgan)
    fake = sampled(method, torch.randn(len(real.labels), method.sampler.noise_dim, generator=random), real.attributes)
    terms = plain_generator(method, fake, real)
    return {**terms, **plain_fake_contrasts(method, fake, real, small)} if isinstance(method, CeGzsl) else terms
