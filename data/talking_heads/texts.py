"""What is said: digit strings and short sentences in seven languages, each belonging to exactly one split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hh_train.types import LANGUAGE_NAMES

SPLITS = ("train", "validation", "test")
CONTENTS = ("digits", "sentences", "mixed")
_SPLIT_OF_TENTH = ("train",) * 8 + ("validation", "test")
_SHORTEST_DIGIT_STRING = 2

DIGITS = {
    "zh": tuple("零一二三四五六七八九"),
    "yue": tuple("零一二三四五六七八九"),
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "ja": ("ぜろ", "いち", "に", "さん", "よん", "ご", "ろく", "なな", "はち", "きゅう"),
    "ko": ("영", "일", "이", "삼", "사", "오", "육", "칠", "팔", "구"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
}

_SUBJECTS = {
    "zh": ("我朋友", "老师", "妈妈", "爸爸", "小明", "我们", "他哥哥", "那个孩子", "医生", "她妹妹"),
    "yue": ("我朋友", "老師", "媽媽", "爸爸", "阿明", "我哋", "佢哥哥", "嗰個細路", "醫生", "佢妹妹"),
    "en": (
        *("my friend", "the teacher", "my mother", "our neighbor", "the boy"),
        *("her brother", "the doctor", "Bob", "my father", "the baker"),
    ),
    "ja": (
        *("ともだちは", "せんせいは", "おかあさんは", "ちちは", "わたしは"),
        *("おとこのこは", "あには", "いもうとは", "いしゃは", "あのひとは"),
    ),
    "ko": ("친구가", "선생님이", "엄마가", "아빠가", "우리가", "아이가", "의사가", "누나가", "형이", "이웃이"),
    "de": (
        *("mein Freund", "die Lehrerin", "meine Mutter", "mein Vater", "der Junge"),
        *("ihr Bruder", "der Arzt", "Emma", "das Kind", "der Bäcker"),
    ),
    "fr": (
        *("mon ami", "la maîtresse", "ma mère", "mon père", "le garçon"),
        *("son frère", "le voisin", "Émilie", "ma tante", "le médecin"),
    ),
}
_PREDICATES = {
    "zh": (
        *("今天去公园", "喜欢喝茶", "在家看书", "买了苹果", "明天坐火车", "正在唱歌", "会做饭", "不怕冷"),
        *("想吃面条", "打开了门", "每天跑步", "在等朋友", "养了两只猫", "没带雨伞", "写了一封信"),
    ),
    "yue": (
        *("今日去公園", "鍾意飲茶", "喺屋企睇書", "買咗蘋果", "聽日坐火車", "唱緊歌", "識煮飯", "唔怕凍"),
        *("想食麵", "打開咗門", "日日跑步", "等緊朋友", "養咗兩隻貓", "冇帶遮", "寫咗一封信"),
    ),
    "en": (
        *("goes to the park", "likes green tea", "reads a book", "bought some apples", "takes the train"),
        *("sings very well", "cooks fish today", "moves a big box", "opens the window", "has five dogs"),
        *("runs every morning", "makes brown bread", "plays with a ball", "lost an umbrella", "wrote a letter"),
    ),
    "ja": (
        *("こうえんへ いきます", "おちゃが すきです", "ほんを よみます", "りんごを かいました", "でんしゃに のります"),
        *("うたを うたいます", "ごはんを つくります", "まどを あけます", "みずを のみます", "いぬと あそびます"),
        *("まいにち はしります", "パンを たべます", "ともだちを まちます", "てがみを かきます", "えを みせます"),
    ),
    "ko": (
        *("공원에 가요", "차를 좋아해요", "책을 읽어요", "사과를 샀어요", "기차를 타요"),
        *("노래를 불러요", "밥을 먹어요", "문을 열어요", "물을 마셔요", "빵을 만들어요"),
        *("매일 달려요", "친구를 기다려요", "고양이와 놀아요", "편지를 써요", "그림을 그려요"),
    ),
    "de": (
        *("geht in den Park", "mag grünen Tee", "liest ein Buch", "kauft vier Äpfel", "fährt mit dem Zug"),
        *("singt sehr gut", "kocht heute Fisch", "öffnet das Fenster", "trinkt warme Milch", "hat fünf Hunde"),
        *(
            "läuft jeden Morgen",
            "bäckt frisches Brot",
            "spielt mit dem Ball",
            "sucht den Schirm",
            "schreibt ihm Briefe",
        ),
    ),
    "fr": (
        *("va au parc", "aime le thé vert", "lit un livre", "achète des pommes", "prend le train"),
        *("chante très bien", "prépare le poisson", "ouvre la fenêtre", "boit du lait chaud", "mange du pain"),
        *("court chaque matin", "attend ses amis", "joue avec le chat", "perd son parapluie", "écrit une lettre"),
    ),
}
_PARTICLES = {"は": "わ", "を": "お", "へ": "え"}
_FULL_STOP = {"zh": "。", "yue": "。", "ja": "。"}


@dataclass(frozen=True)
class Line:
    """One line as it is written (caption, transcript) and as it is given to the speech engine."""

    written: str
    spoken: str


def split_of_digits(digit_string: str) -> str:
    """The split of a digit string such as "352": 8/1/1 tenths by its hash, whatever the seed and the language."""
    return _SPLIT_OF_TENTH[int.from_bytes(hashlib.sha256(digit_string.encode()).digest()[:8], "big") % 10]


def sentences_of(split: str, language: str) -> list[Line]:
    """All sentences of a split: the test's are new pairs of beginnings and endings that training has apart."""
    return [
        _sentence(subject, predicate, language)
        for i, subject in enumerate(_SUBJECTS[language])
        for j, predicate in enumerate(_PREDICATES[language])
        if _SPLIT_OF_TENTH[(i + j) % len(_SPLIT_OF_TENTH)] == split
    ]


def draw_line(random: np.random.Generator, *, language: str, split: str, content: str, digits: tuple[int, int]) -> Line:
    """A line of the split. `digits`: fewest and most digits of a string. Raises ValueError on an unknown choice."""
    check_choices(languages=(language,), split=split, content=content, digits=digits)
    if content == "mixed":
        content = ("digits", "sentences")[random.integers(2)]
    if content == "sentences":
        choices = sentences_of(split, language)
        return choices[random.integers(len(choices))]
    length = int(random.integers(digits[0], digits[1] + 1))
    while True:
        digit_string = "".join(str(digit) for digit in random.integers(0, 10, length))
        if split_of_digits(digit_string) == split:
            return digit_line(digit_string, language)


def check_choices(*, languages: Sequence[str], split: str, content: str, digits: tuple[int, int]) -> None:
    """Raises ValueError naming what is unknown and what there is."""
    unknown = [language for language in languages if language not in LANGUAGE_NAMES]
    if unknown or not languages:
        raise ValueError(f"languages {list(languages)} are unknown: choose from {', '.join(LANGUAGE_NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose from {', '.join(SPLITS)}")
    if content not in CONTENTS:
        raise ValueError(f"content {content!r} is unknown: choose from {', '.join(CONTENTS)}")
    if not _SHORTEST_DIGIT_STRING <= digits[0] <= digits[1]:
        raise ValueError(f"digits {digits} must be FEWEST-MOST with FEWEST at least 2: shorter ones leave splits empty")


def digit_line(digit_string: str, language: str) -> Line:
    """The line for a digit string such as "352"; "three five two" in English."""
    words = [DIGITS[language][int(digit)] for digit in digit_string]
    written = ("" if language in ("zh", "yue") else " ").join(words)
    return Line(written, written)


def _sentence(subject: str, predicate: str, language: str) -> Line:
    sentence = subject + ("" if language in ("zh", "yue") else " ") + predicate
    written = sentence[0].upper() + sentence[1:] + _FULL_STOP.get(language, ".")
    return Line(written, _pronounced(sentence) if language == "ja" else sentence)


def _pronounced(kana: str) -> str:
    """Japanese particles are written by their history and read otherwise: は as わ, を as お, へ as え."""
    return " ".join(word[:-1] + _PARTICLES.get(word[-1], word[-1]) for word in kana.split(" "))
