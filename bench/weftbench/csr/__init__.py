"""What certificates cost the control plane that issues them."""
