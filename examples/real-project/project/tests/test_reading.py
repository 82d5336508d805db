import unittest

from wordcount import words_of


class WordsOf(unittest.TestCase):
    def test_case_and_punctuation_do_not_matter(self):
        self.assertEqual(list(words_of(["Go, GO! go."])), ["go"] * 3)

    def test_an_apostrophe_inside_belongs_to_the_word(self):
        self.assertEqual(list(words_of(["don't 'quote' it"])), ["don't", "quote", "it"])

    def test_words_of_any_alphabet_count(self):
        self.assertEqual(list(words_of(["Grüße, мир"])), ["grüsse", "мир"])

    def test_numbers_are_no_words(self):
        self.assertEqual(list(words_of(["4 apples, 2_000"])), ["apples"])
