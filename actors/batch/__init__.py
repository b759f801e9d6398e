"""The Ray Data stages (generate, reward, caption), and the wrapper that isolates faults."""
