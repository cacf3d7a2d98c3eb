"""What merging two topics, or splitting one in two, changes in the collapsed joint density of a topic model.

Papers: Griffiths, Steyvers 2004 (the joint density); Jain, Neal 2004 (splits and merges); Asuncion et al. 2009 (CVB0).

At expected counts N_wk, N_dk (`topics.py`), with lg = log Gamma and V words, the joint density is a sum over topics, up to a
constant, of

    J(k) = sum_w [lg(N_wk + eta) - lg(eta)] + sum_d [lg(N_dk + alpha) - lg(alpha)] - lg(N_k + V eta) + lg(V eta)

so a merge changes it by J(k + l) - J(k) - J(l), and a split, whose halves are found below, by minus that. Halves of topic k are a
model of two topics for the counts m_i = n_i phi_ik alone, by two kinds of passes in the order of the documents, counts following
at once: first whole documents (their share of the first half, r_d), which tells halves apart in one or two passes from a
random start, then words,

    r_d      ~ prod_i [(W_w1 - r_d m_i + eta) / (W_w2 - (1 - r_d) m_i + eta)]^m_i  [(W_2 - ... + V eta) / (W_1 - ... + V eta)]^m_d
    q_i      ~ (W_w1 - q_i m_i + eta) (D_d1 - q_i m_i + alpha) / (W_1 - q_i m_i + V eta),  the same for 1 - q_i
"""

from math import exp, lgamma

import numpy as np

from jensen.kernels.topics_compile import compiled

F = np.float32
BLOCK = 512  # sums in float32 are no longer than this


@compiled
def _log(x):
    """Natural logarithm in float32 without a library call, so that loops over it become vectors; relative error 1e-7."""
    bits = F(x).view(np.int32)
    power = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    m = np.int32(bits - (power << np.int32(23))).view(F) - F(1)
    z = m * m
    y = F(7.0376836292e-2)
    y = y * m - F(1.1514610310e-1)
    y = y * m + F(1.1676998740e-1)
    y = y * m - F(1.2420140846e-1)
    y = y * m + F(1.4249322787e-1)
    y = y * m - F(1.6668057665e-1)
    y = y * m + F(2.0000714765e-1)
    y = y * m - F(2.4999993993e-1)
    y = y * m + F(3.3333331174e-1)
    return m - F(0.5) * z + z * m * y + F(power) * F(0.69314718)


@compiled
def _log_gamma(x):
    """Log Gamma of a positive float32: recurrence to x + 3, then Stirling's series."""
    z = x + F(3)
    u = F(1) / z
    series = u * (F(0.083333333) - u * u * F(0.0027777778))
    return (z - F(0.5)) * _log(z) - z + F(0.91893853) + series - _log(x * (x + F(1)) * (x + F(2)))


@compiled
def _sum(a, b, prior):
    total = 0.0
    least = _log_gamma(prior)
    for start in range(0, a.shape[0], BLOCK):
        part = F(0)
        for j in range(start, min(start + BLOCK, a.shape[0])):
            part += _log_gamma(a[j] + b[j] + prior) - least
        total += part
    return total


@compiled
def joint(words, more_words, docs, more_docs, total, alpha, eta):
    """J of the topic with counts `words` + `more_words` (V,) and `docs` + `more_docs` (documents,), `total` in all."""
    all_eta = eta * words.shape[0]
    by_word, by_doc = _sum(words, more_words, F(eta)), _sum(docs, more_docs, F(alpha))
    return by_word + by_doc + lgamma(all_eta) - lgamma(total + all_eta)


@compiled
def holdings(indptr, indices, counts, phi, topics, least, first, doc, word, mass):
    """List, topic by topic and in the order of documents, the words of which a topic holds more than a share of `least`.

    Parameters
    ----------
    phi, topics
        float32 (words of documents, lanes), and how many of the lanes are topics.
    first
        int64 (topics + 1): where each topic's list begins. If the lists are longer than `doc`, nothing else is filled.
    doc, word, mass
        int32, int32, float32: the lists: document, word and n_i phi_ik.
    """
    least = F(least)
    first[:] = 0
    for i in range(phi.shape[0]):
        for k in range(topics):
            first[k + 1] += phi[i, k] > least
    for k in range(topics):
        first[k + 1] += first[k]
    if first[topics] > doc.shape[0]:
        return
    at = first[:topics].copy()
    for d in range(indptr.shape[0] - 1):
        for i in range(indptr[d], indptr[d + 1]):
            for k in range(topics):
                if phi[i, k] > least:
                    j = at[k]
                    doc[j], word[j], mass[j] = d, indices[i], counts[i] * phi[i, k]
                    at[k] = j + 1


@compiled
def halves(doc, word, mass, start, doc_passes, word_passes, alpha, eta, share, by_word, by_doc):
    """Split one topic's list in two.

    Parameters
    ----------
    doc, word, mass
        The list, from `holdings`.
    start
        float32 (documents,): r_d at the beginning.
    doc_passes, word_passes
        How many of either kind.
    share
        float32 like `mass`: q_i, the first half's share, is left here.
    by_word, by_doc
        float32 (2, V), (2, documents): the counts of both halves are left here.
    """
    by_word[:] = 0
    by_doc[:] = 0
    all_eta, alpha, eta, none, one = F(eta * by_word.shape[1]), F(alpha), F(eta), F(0), F(1)
    first, second, size = none, none, doc.shape[0]
    for j in range(size):
        share[j] = start[doc[j]]
        a = mass[j] * share[j]
        b = mass[j] - a
        by_word[0, word[j]] += a
        by_word[1, word[j]] += b
        by_doc[0, doc[j]] += a
        by_doc[1, doc[j]] += b
        first += a
        second += b
    for _ in range(doc_passes):
        j = 0
        while j < size:
            d, r, end, weight, odds = doc[j], share[j], j, none, none
            while end < size and doc[end] == d:
                m = mass[end]
                a = max(by_word[0, word[end]] - m * r, none) + eta
                b = max(by_word[1, word[end]] - m * (one - r), none) + eta
                odds += m * _log(a / b)
                weight += m
                end += 1
            odds -= weight * _log((first - weight * r + all_eta) / (second - weight * (one - r) + all_eta))
            r = F(1 / (1 + exp(-min(max(odds, F(-20)), F(20)))))
            moved = r - share[j]
            by_doc[0, d] += moved * weight
            by_doc[1, d] -= moved * weight
            first += moved * weight
            second -= moved * weight
            for i in range(j, end):
                by_word[0, word[i]] += moved * mass[i]
                by_word[1, word[i]] -= moved * mass[i]
                share[i] = r
            j = end
    for _ in range(word_passes):
        for j in range(size):
            d, w, m = doc[j], word[j], mass[j]
            a = m * share[j]
            b = m - a
            x = (max(by_word[0, w] - a, none) + eta) * (max(by_doc[0, d] - a, none) + alpha) * (second - b + all_eta)
            y = (max(by_word[1, w] - b, none) + eta) * (max(by_doc[1, d] - b, none) + alpha) * (first - a + all_eta)
            q = x / (x + y)
            moved = m * (q - share[j])
            share[j] = q
            by_word[0, w] += moved
            by_word[1, w] -= moved
            by_doc[0, d] += moved
            by_doc[1, d] -= moved
            first += moved
            second -= moved
