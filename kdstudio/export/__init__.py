"""From a trained student to a file that runs offline: write, quantize, verify, describe."""
