-- What a company can choose from.

INSERT INTO usage_types (name, title) VALUES
    ('mini-grid', 'Mini-grid'),
    ('solar-home-system', 'Solar home system'),
    ('e-bike-rental', 'E-bike rental'),
    ('mini-grid+solar-home-system', 'Mini-grid and solar home system'),
    ('mini-grid+e-bike-rental', 'Mini-grid and e-bike rental'),
    ('solar-home-system+e-bike-rental', 'Solar home system and e-bike rental'),
    ('mini-grid+solar-home-system+e-bike-rental', 'Mini-grid, solar home system and e-bike rental');

INSERT INTO plugins (name, title, kind, description) VALUES
    ('paystack-payment-provider', 'Paystack', 'payment', 'Card and bank payments in West Africa'),
    ('flutterwave-payment-provider', 'Flutterwave', 'payment', 'Cards, mobile money and transfers'),
    ('pesapal-payment-provider', 'PesaPal', 'payment', 'Cards and mobile money in East Africa'),
    ('safaricom-mpesa-payment-provider', 'Safaricom M-Pesa', 'payment', 'Mobile money in Kenya, by STK push and paybill'),
    ('vodacom-payment-provider', 'Vodacom M-Pesa', 'payment', 'Mobile money in Tanzania and Mozambique'),
    ('airtel-payment-provider', 'Airtel Money', 'payment', 'Mobile money'),
    ('wave-money-payment-provider', 'Wave Money', 'payment', 'Mobile money in Myanmar'),
    ('swifta-payment-provider', 'Swifta', 'payment', 'Payments in Nigeria'),
    ('mesomb-payment-provider', 'MesomB', 'payment', 'Mobile money in Cameroon');

INSERT INTO plugins (name, title, kind, description, usage_types) VALUES
    ('calin-meter', 'Calin', 'meter', 'STS tokens for Calin meters', '{mini-grid}'),
    ('calin-smart-meter', 'Calin Smart', 'meter', 'Online Calin meters', '{mini-grid}'),
    ('spark-meter', 'Spark', 'meter', 'SparkMeter sites, tariffs and customers', '{mini-grid}'),
    ('steama-meter', 'Steamaco', 'meter', 'Steamaco sites and meters', '{mini-grid}'),
    ('stron-meter', 'Stron', 'meter', 'STS tokens for Stron meters', '{mini-grid}'),
    ('micro-star-meter', 'Micro Star', 'meter', 'Tokens for Micro Star meters', '{mini-grid}'),
    ('chint-meter', 'Chint', 'meter', 'Tokens for Chint meters', '{mini-grid}'),
    ('gome-long-meter', 'GomeLong', 'meter', 'Tokens and tariffs of GomeLong meters', '{mini-grid}'),
    ('kelin-meter', 'Kelin', 'meter', 'Kelin meters and their readings', '{mini-grid}'),
    ('prospect', 'Prospect', 'meter', 'Readings and installations for Prospect', '{mini-grid}'),
    ('sunking-shs', 'SunKing', 'solar-home-system', 'Tokens for SunKing systems', '{solar-home-system}'),
    ('angaza-shs', 'Angaza', 'solar-home-system', 'Tokens for systems on Angaza', '{solar-home-system}'),
    ('daly-bms', 'DalyBMS', 'solar-home-system', 'Batteries of e-bikes and systems with a Daly BMS', '{solar-home-system,e-bike-rental}');

INSERT INTO plugins (name, title, kind, description) VALUES
    ('africas-talking', 'Africa''s Talking', 'messaging', 'SMS'),
    ('viber-messaging', 'Viber', 'messaging', 'Messages by Viber'),
    ('textbee-sms-gateway', 'TextBee', 'messaging', 'SMS through one''s own telephone'),
    ('bulk-sms', 'Bulk SMS', 'messaging', 'SMS to many'),
    ('bulk-registration', 'Bulk registration', 'operations', 'Customers and devices from a spreadsheet'),
    ('odyssey-data-export', 'Odyssey export', 'operations', 'Payments for Odyssey to read'),
    ('inensus-ticket', 'Inensus ticket', 'operations', 'Tickets for customer care'),
    ('demo-data', 'Demo data', 'operations', 'Customers, meters and payments to try the product with'),
    ('vrm', 'VRM', 'operations', 'Readings of Victron systems');

INSERT INTO plugins (name, title, kind, description, usage_types, requires) VALUES
    ('steama-sms', 'Steamaco messages', 'messaging', 'Messages that Steamaco sends for its meters', '{mini-grid}', '{steama-meter}');
