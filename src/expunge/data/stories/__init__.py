"""Stories with instructions (TinyStories): records, their transforms, and shards of tokens to train on."""

from expunge.data.stories.documents import TokenDocuments
from expunge.data.stories.gather import gather, source_of
from expunge.data.stories.generate import StoriesConfig, generate, generated
from expunge.data.stories.pretokenize import PretokenizedDataset, check_name, pretokenize
from expunge.data.stories.protocol import protocol
from expunge.data.stories.records import FEATURES, Story, load_records, open_stories, split_numbers
from expunge.data.stories.shards import TokenDataset, dataset_folder, joined, tokenizer_folder
from expunge.data.stories.text import LINES, StoryVariant, parse_subset, prompt, render, transform
from expunge.data.transforms.draws import Draws

__all__ = [
    "FEATURES",
    "LINES",
    "PretokenizedDataset",
    "Draws",
    "StoriesConfig",
    "Story",
    "TokenDocuments",
    "TokenDataset",
    "StoryVariant",
    "check_name",
    "dataset_folder",
    "gather",
    "generate",
    "generated",
    "joined",
    "load_records",
    "open_stories",
    "parse_subset",
    "pretokenize",
    "prompt",
    "protocol",
    "render",
    "source_of",
    "split_numbers",
    "tokenizer_folder",
    "transform",
]
