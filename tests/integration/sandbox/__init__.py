"""The sandbox as a process, asked by Stripe's own client and by a mailer."""
