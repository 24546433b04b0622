"""A pytest plugin (``-p in_place_of_sklearn``): scikit-learn's own tests meet fastmlp's estimators."""

import sklearn.neural_network

from fastmlp.sklearn import MLPClassifier, MLPRegressor

sklearn.neural_network.MLPClassifier = MLPClassifier
sklearn.neural_network.MLPRegressor = MLPRegressor
