"""Passes over the words of a topic model: collapsed (CVB0), stochastic collapsed (SCVB0) and variational Bayes.

Papers: Asuncion, Welling, Smyth, Teh 2009 (CVB0); Foulds, Boyles, DuBois, Smyth, Welling 2013 (SCVB0); Blei, Ng, Jordan 2003 and
Hoffman, Blei, Bach 2010 (variational Bayes).

Document d has words i = indptr[d] ... indptr[d+1] - 1, word w_i counted n_i times. Expected counts of topics are N_wk in words
(`by_word`, a row a word, so that a word touches one row) and N_dk in documents (`by_doc`); N_k is the sum of N_wk over words.
Dirichlet priors are alpha_k (zero in padded lanes, see `topics_compile.py`) and eta; there are V words.

    collapsed    phi_ik ~ (N_wk - n_i phi_ik + eta) (N_dk - n_i phi_ik + alpha_k) / (N_k + V eta), counts follow at once;
                 N_k is taken afresh once a document; holds phi, a row a word of a document
    stochastic   phi_ik ~ (N_dk + alpha_k) (N_wk + eta) / (N_k + V eta); N_dk <- sum_i n_i phi_ik some times; adds n_i phi_ik to
                 `found`, from which the caller makes N_wk; holds no phi
    bayes        e_k = exp(psi(gamma_dk)); s_i = sum_k e_k T_wk; gamma_dk = alpha_k + e_k sum_i n_i T_wk / s_i; then
                 `found`_wk = sum_d e_k n_i T_wk / s_i, and the documents' part of the lower bound with phi summed out,
                 sum_i n_i (log s_i - psi(G)) + sum_k [(alpha_k - gamma_dk)(psi(gamma_dk) - psi(G)) + lg gamma_dk - lg alpha_k]
                 + lg A - lg G, G = sum_k gamma_dk, A = sum_k alpha_k

The digamma of variational Bayes, exp(psi(x)) ~ x - 1/2, locks words out of topics after one pass; without it (the first two)
topics form in ten to thirty passes from any start. Arrays are C-contiguous and writable; nothing is checked here.
"""

from math import exp, lgamma, log

import numpy as np

from jensen.kernels.topics_compile import compiled

F = np.float32
TINY = 1e-300  # keeps a word that no topic explains from dividing by zero


@compiled
def collapsed(indptr, indices, counts, phi, by_word, totals, by_doc, alpha, eta):
    """One pass of CVB0 in the order of the documents, in place; the change of `by_doc` summed over everything.

    Parameters
    ----------
    indptr, indices, counts
        The corpus: int64 (documents + 1), int32 and float32 (words of documents).
    phi
        float32 (words of documents, lanes): probabilities of topics.
    by_word, totals, by_doc
        float32 (V, lanes), (lanes,), (documents, lanes): counts that belong to `phi`.
    alpha, eta
        float32 (lanes,) and a number.
    """
    topics = by_word.shape[1]
    new, scale, before = np.empty(topics, F), np.empty(topics, F), np.empty(topics, F)
    all_eta = F(eta * by_word.shape[0])
    eta, none, change = F(eta), F(0), 0.0
    for d in range(indptr.shape[0] - 1):
        doc = by_doc[d]
        for k in range(topics):
            scale[k] = F(1) / (totals[k] + all_eta)
            before[k] = doc[k]
        for i in range(indptr[d], indptr[d + 1]):
            n, word, old, mass = counts[i], by_word[indices[i]], phi[i], none
            for k in range(topics):
                own = n * old[k]
                new[k] = (max(word[k] - own, none) + eta) * (max(doc[k] - own, none) + alpha[k]) * scale[k]
                mass += new[k]
            mass = F(1) / mass
            for k in range(topics):
                p = new[k] * mass
                moved = n * (p - old[k])
                old[k] = p
                word[k] += moved
                doc[k] += moved
        for k in range(topics):
            totals[k] += doc[k] - before[k]
            change += abs(doc[k] - before[k])
    return change


@compiled
def assigned(indptr, indices, counts, phi, by_word, scale, by_doc, alpha, eta):
    """Fill `phi` from the counts, then count again: `by_word` and `by_doc` are replaced by what `phi` adds up to."""
    topics = by_word.shape[1]
    eta = F(eta)
    for d in range(indptr.shape[0] - 1):
        for i in range(indptr[d], indptr[d + 1]):
            mass, word, new = F(0), by_word[indices[i]], phi[i]
            for k in range(topics):
                new[k] = (word[k] + eta) * (by_doc[d, k] + alpha[k]) * scale[k]
                mass += new[k]
            mass = F(1) / mass
            for k in range(topics):
                new[k] *= mass
    by_word[:] = 0
    by_doc[:] = 0
    for d in range(indptr.shape[0] - 1):
        for i in range(indptr[d], indptr[d + 1]):
            word, new = by_word[indices[i]], phi[i]
            for k in range(topics):
                moved = counts[i] * new[k]
                word[k] += moved
                by_doc[d, k] += moved


@compiled
def stochastic(indptr, indices, counts, docs, rounds, by_word, scale, by_doc, alpha, eta, found):
    """Update `by_doc` of the documents `docs` `rounds` times, adding the last round's counts to `found`.

    Parameters
    ----------
    docs
        int64: numbers of documents.
    scale
        float32 (lanes,): 1 / (N_k + V eta).
    found
        float32 (V, lanes); others as in `collapsed`. Returns the change of `by_doc` in the last round, summed over everything.
    """
    topics = by_word.shape[1]
    theta, doc, new = np.empty(topics, F), np.empty(topics, F), np.empty(topics, F)
    eta, change = F(eta), 0.0
    for d in docs:
        for r in range(rounds):
            for k in range(topics):
                theta[k] = (by_doc[d, k] + alpha[k]) * scale[k]
                doc[k] = 0
            for i in range(indptr[d], indptr[d + 1]):
                mass, word = F(0), by_word[indices[i]]
                for k in range(topics):
                    new[k] = theta[k] * (word[k] + eta)
                    mass += new[k]
                mass = counts[i] / mass
                if r == rounds - 1:
                    total = found[indices[i]]
                    for k in range(topics):
                        doc[k] += new[k] * mass
                        total[k] += new[k] * mass
                else:
                    for k in range(topics):
                        doc[k] += new[k] * mass
            if r == rounds - 1:
                for k in range(topics):
                    change += abs(doc[k] - by_doc[d, k])
            for k in range(topics):
                by_doc[d, k] = doc[k]
    return change


@compiled
def _psi(x):
    """Digamma of a positive number: recurrence to x + 6, then Stirling's series; errors below 1e-11."""
    shift = 1 / x + 1 / (x + 1) + 1 / (x + 2) + 1 / (x + 3) + 1 / (x + 4) + 1 / (x + 5)
    y = x + 6
    u = 1 / (y * y)
    series = u * (1 / 12 - u * (1 / 120 - u * (1 / 252 - u * (1 / 240 - u * (1 / 132 - u * 691 / 32760)))))
    return log(y) - 0.5 / y - series - shift


@compiled
def bayes(indptr, indices, counts, topic, gamma, alpha, rounds, tolerance, found, parts):
    """Documents given topics: `gamma` until it stands still, then `found` and the documents' parts of the lower bound.

    Parameters
    ----------
    topic
        float64 (V, lanes): exp E[log beta], rows divided by any positive numbers.
    gamma
        float64 (documents, lanes): where to start, and the answer.
    alpha
        float64 (lanes,).
    rounds, tolerance
        Largest number of updates, and the mean change of a document's `gamma` over topics at which they stop.
    found
        float64 (V, lanes) that is added to, or (0, lanes) to leave it out.
    parts
        float64 (documents,) for the bound, less the logs of what the rows of `topic` were divided by; or (0,) to leave it and
        `found` out.
    """
    lanes, topics, prior, prior_mass = topic.shape[1], 0, 0.0, 0.0
    for k in range(lanes):
        if alpha[k] > 0:
            topics += 1
            prior += lgamma(alpha[k])
            prior_mass += alpha[k]
    theta, new = np.zeros(lanes), np.zeros(lanes)
    for d in range(indptr.shape[0] - 1):
        doc = gamma[d]
        for _ in range(rounds):
            for k in range(topics):
                theta[k] = exp(_psi(doc[k]))
                new[k] = 0
            for i in range(indptr[d], indptr[d + 1]):
                s, word = TINY, topic[indices[i]]
                for k in range(lanes):
                    s += theta[k] * word[k]
                s = counts[i] / s
                for k in range(lanes):
                    new[k] += s * word[k]
            change = 0.0
            for k in range(topics):
                now = alpha[k] + theta[k] * new[k]
                change += abs(now - doc[k])
                doc[k] = now
            if change < tolerance * topics:
                break
        if parts.shape[0] == 0:
            continue
        gamma_mass, part, words = 0.0, 0.0, 0.0
        for k in range(topics):
            log_theta = _psi(doc[k])
            theta[k] = exp(log_theta)
            gamma_mass += doc[k]
            part += lgamma(doc[k]) + (alpha[k] - doc[k]) * log_theta
        for i in range(indptr[d], indptr[d + 1]):
            s, word = TINY, topic[indices[i]]
            for k in range(lanes):
                s += theta[k] * word[k]
            part += counts[i] * log(s)
            words += counts[i]
            if found.shape[0]:
                s, total = counts[i] / s, found[indices[i]]
                for k in range(lanes):
                    total[k] += s * theta[k] * word[k]
        # sum_k (alpha_k - gamma_dk) = A - G, and G = A + words only once gamma stands still
        part -= (words + prior_mass - gamma_mass) * _psi(gamma_mass)
        parts[d] = part - prior + lgamma(prior_mass) - lgamma(gamma_mass)
