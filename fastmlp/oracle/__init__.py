"""The mathematics: a multilayer perceptron in plain NumPy.

Everything here is float64, a sample is a *column*, nothing is validated and memory is allocated freely: the only aim
is that each line can be checked against the textbook. The compiled twins in :mod:`fastmlp.kernels` carry the same file
names, the same function names and the same letters.

The alphabet
------------
One letter per axis, declared here and contradicted nowhere:

======  ==================  ==========  ====================  =====================================================
letter  axis                name        shape                 meaning
======  ==================  ==========  ====================  =====================================================
``n``   sample              ``X[i,n]``  (inputs, samples)     what enters a layer
``i``   input of a layer    ``W[j,i]``  (outputs, inputs)     weights
``j``   output of a layer   ``b[j]``    (outputs,)            biases
..      ..                  ``Z[j,n]``  (outputs, samples)    pre-activation
..      ..                  ``A[j,n]``  (outputs, samples)    activation; it is the next layer's ``X``
..      ..                  ``Y[j,n]``  (outputs, samples)    targets of the last layer
..      ..                  ``L[n]``    (samples,)            loss of one sample; the loss is their mean over ``N``
..      ..                  ``s[n]``    (samples,)            share of a sample in that mean: 1 by ``N``, or weighted
``k``   output once more    ``A[k,n]``  (outputs, samples)    where one letter is not enough
..      ..                  ``dZ`` …    shape of ``Z`` …      ∂loss/∂Z: a thing's gradient has the thing's shape, and
                                                              its name after a ``d``
======  ==================  ==========  ====================  =====================================================

The two rules
-------------
They stand in for every remembered transpose.

1. **Sums: a derivative keeps the letters of its forward line.** Take the forward line term by term, replace the wanted
   operand by the output's gradient, and sum every letter that the left side does not have::

       Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]      gives      dX[i,n] = Σ_j W[j,i] dZ[j,n]
                                                         dW[j,i] = Σ_n dZ[j,n] X[i,n]
                                                         db[j]   = Σ_n dZ[j,n]

2. **Elements: multiply by the slope.** ``A[j,n] = f(Z[j,n])`` gives ``dZ[j,n] = dA[j,n] f'(Z[j,n])``.

References
----------
.. [1] I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning*, MIT Press 2016, section 6.5.
.. [2] M. Nielsen, *Neural Networks and Deep Learning*, 2015, chapter 2, equations BP1 to BP4.
.. [3] C. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 5.3.
"""
