"""From images or a benchmark to features, to a D3GZSL classifier, to a bundle.

The method is here: task, teacher, student, losses, trainer, selection, evaluation, `fit`. Around it, each building only
on those before: `features`, `datasets`, `generators`, `run_dir`, `reporting` and `exporting`, `search` and `demo`,
`commands`.
"""

import os

# ONNX Runtime's official builds send usage events to their maker over the network and keep a device id in the home
# directory, unless this variable stands before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
