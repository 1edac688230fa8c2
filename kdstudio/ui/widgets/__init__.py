"""Widgets that every page shares: labels, buttons, pills, cards, banners, empty states, toasts, the jobs panel."""
