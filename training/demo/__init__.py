"""The embedded demo: a world of drawn shapes, its renderer, and the slim ResNet-101 trained on it.

`world` names the attributes and the classes, `render` draws them, `dataset` draws many of them on all cores,
`pretrain` trains the trunk on seen classes only and `check` measures how well its features carry to classes that it
never saw. Only `pretrain` and `check` import torch.
"""
