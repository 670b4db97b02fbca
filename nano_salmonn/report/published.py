# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What the papers report, as far as `salmonn-nano` repeats it. Error rates, accuracies and following rates in percent.

Values of figures are read off the plots.
"""

SALMONN = "2310.13289"
CONNECTING = "2309.13963"

# Table 3 of 2310.13289, 13B: before and after activation tuning
STORY_FOLLOWING = (0.0, 100.0)
STORY_DIVERSITY = (7.77, 82.57)
QUESTION_FOLLOWING = (29.0, 98.0)
WER_CLEAN = (2.1, 2.1)
PER_CLEAN = (4.2, 4.2)

# Figure 3 of 2310.13289: by LoRA scaling at test time, of which 4 is that of training
LORA_SCALING = 4
SWEEP = {
    "asr": {0: 50, 1: 33, 2: 5.5, 3: 2.5, 4: 2},
    "audio_story_telling": {0: 88, 1: 85, 2: 77, 3: 15, 4: 7.8},
}

# Figure 4 of 2310.13289: -log P by token at the first and the last of 12 steps, by task of the answers and instruction
PERPLEXITY = {
    "none": {"audiocaption": (1.68, 1.91), "audio_story_telling": (2.60, 1.99)},
    "audio_story_telling": {"audiocaption": (1.7, 8.6), "audio_story_telling": (2.4, 1.8)},
}

# Tables 1 to 3, 5 and 6 of 2309.13963: WER on LibriSpeech test-clean
WITHOUT_CONCATENATION = {"wer": 3.72, "deletions": 1.38}
WITH_CONCATENATION = {"wer": 2.28, "deletions": 0.30}
CONNECTORS = {"qformer": 2.28, "linear": 3.00, "cross_attention": 3.22}  # 80, 75 and 75 tokens in 30 s
QUERIES = {40: 2.43, 60: 2.33, 80: 2.28, 160: 2.26, 300: 2.19}  # by number of tokens in 30 s
WHISPER_AND_LLM = {"Whisper large-v2": 2.5, "Q-Former and Vicuna": 2.1}
LONG = {"Q-Former": {60: 3.83, 90: 5.40, 120: 26.91}, "Seg-QF": {60: 3.11, 90: 3.81, 120: 17.95}}  # by seconds
