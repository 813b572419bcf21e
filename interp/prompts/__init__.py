"""Prompts: text or token ids, read from anywhere, labelled and cut into batches."""

from interp.prompts.frequency import word_frequency as word_frequency
from interp.prompts.labels import gold as gold
from interp.prompts.labels import regex as regex
from interp.prompts.labels import spacy_tags as spacy_tags
from interp.prompts.labels import target_word as target_word
from interp.prompts.pairs import aligned_by_spans as aligned_by_spans
from interp.prompts.pairs import read_pairs as read_pairs
from interp.prompts.prompts import Prompts as Prompts
from interp.prompts.read import read_prompts as read_prompts
from interp.prompts.tokens import token_id as token_id
