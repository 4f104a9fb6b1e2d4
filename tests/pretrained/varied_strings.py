"""A thousand strings that tokenizers trip over, the same every time."""

import random

PARTS = (
    "The quick brown fox", "jumps", "don't", "we'LL", "it's", "naïve café", "Straße", "ÅÄÖ", "e\u0301", "\u00e9", "ﬁ ligature",
    "Привет, мир", "こんにちは世界", "你好，世界", "안녕하세요", "مرحبا بالعالم", "שלום", "नमस्ते", "ไทยภาษา", "Ελληνικά", "ქართული",
    "🤗", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "☃\ufe0f", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\U0001f9ff", "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋", "½ ¼ ²³", "①②③",
    " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085",
    "0", "7", "42", "1999", "3.14159", "1,000,000", "1e-5", "0xFF", "12:30", "١٢٣", "  12", " 345", "90210-1234",
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}", "<div class=\"a\">&nbsp;</div>",
    "SELECT * FROM t WHERE a <> 'b';", "https://example.org/a?b=c&d=%20#e", "a@b.co", "{\"k\": [1, null]}", "\\n\\t\\\\", "$x_{i}^2$",
    "\x00", "\x01\x02", "\x1b[31mred\x1b[0m", "\x7f", "\ufeff", "\ufffd", "\ufffe", "\ue000", "\U0010ffff",
    "!!!", "...", "…", "—", "“quoted”", "‘a’", "?!", "@#$%^&*()", "[]", "(((", "~~~~", "----------", "========",
    "supercalifragilisticexpialidocious", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ha" * 40, "\u2581", "\u0120", "\u010a", "Ġthe",
)  # fmt: skip

SPECIALS = (
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>",
    "<end_of_turn>", "[INST]", "[/INST]", "<|begin_of_text|>", "<|eot_id|>", "<0x0A>", "<|im_start|>system\n", "<unused7>", "[CLS]",
)  # fmt: skip


def varied_strings(count: int = 1000, seed: int = 0) -> list[str]:
    """Each part alone, long runs of one character, and random joins of parts; special tokens' strings are among the parts."""
    rng = random.Random(seed)
    found = ["", *PARTS, *SPECIALS]
    found += [
        letter * length
        for letter in ("a", " ", "\n", "\t", "9", "é", "世", "🤗", ".")
        for length in (5, 33, 257)
    ]
    while len(found) < count:
        drawn = rng.choices(PARTS + SPECIALS, k=rng.randint(2, 12))
        found.append(rng.choice(("", " ", " ", "\n")).join(drawn))
    return found[:count]
