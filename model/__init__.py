"""What a trained artefact is: vocabulary, classes, preprocessing, head, calibration and the bundle file format.

NumPy, SciPy, Pillow, simplejpeg and onnx only. The torch networks live in ``model.networks``, which nothing in this
package imports.
"""

__version__ = "0.1.0"
