"""Write the calibration text of the demo model: python tools/demo/calibration.py models/demo/calibration.txt

The seed differs from those of the training text (1234, 99) and the evaluation text (777000, 555000), so that what
a quantizer sees is neither what the model learnt by heart nor what it is measured on.
"""

import sys

from stories import Writer

SEED = 424242
CHARACTERS = 250_000  # about 57,000 tokens: 110 windows of 512


def calibration_text():
    writer, text = Writer(SEED), ""
    while len(text) < CHARACTERS:
        text += writer.document()
    return text


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(calibration_text())
