"""What the pages share: loaded studies, fitted estimators, the gallery, and the frame around every panel."""
