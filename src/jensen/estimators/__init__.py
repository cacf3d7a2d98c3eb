"""Classical models behind the scikit-learn contract, fitted by variational inference."""
