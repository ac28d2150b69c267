"""The suite `control`: a control plane with simulated delta proxies, beside istiod where that is named."""
