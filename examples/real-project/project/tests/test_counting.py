import unittest

from wordcount import count_words, most_common


class MostCommon(unittest.TestCase):
    def setUp(self):
        self.counts = count_words(["b", "a", "b", "c", "a", "d"])

    def test_frequent_words_come_first_and_the_alphabet_breaks_ties(self):
        ranked = [("a", 2), ("b", 2), ("c", 1), ("d", 1)]
        self.assertEqual(most_common(self.counts, at_most=9), ranked)

    def test_no_more_than_asked_for(self):
        self.assertEqual(most_common(self.counts, at_most=1), [("a", 2)])

    def test_nothing_counted_is_nothing_listed(self):
        self.assertEqual(most_common(count_words([]), at_most=5), [])
