package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// amqpStore keeps values as messages of one quorum queue, which is confirmed by a
// majority of its members.
type amqpStore struct {
	hosts          []string
	user, password string

	next int // of hosts
	conn *amqp.Connection
	ch   *amqp.Channel
}

const amqpQueue = "values"

// connect has a channel with confirms, to whichever member answers.
func (s *amqpStore) connect() error {
	if s.conn != nil && !s.conn.IsClosed() && s.ch != nil && !s.ch.IsClosed() {
		return nil
	}
	s.drop()
	host := s.hosts[s.next%len(s.hosts)]
	s.next++
	conn, err := amqp.DialConfig(fmt.Sprintf("amqp://%s:%s@%s:5672/", s.user, s.password, host), amqp.Config{
		Heartbeat: 5 * time.Second,
		Dial:      func(network, address string) (net.Conn, error) { return net.DialTimeout(network, address, time.Second) },
	})
	if err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	s.conn = conn
	if s.ch, err = conn.Channel(); err != nil {
		return err
	}
	if err := s.ch.Confirm(false); err != nil {
		return err
	}
	_, err = s.ch.QueueDeclare(amqpQueue, true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": -1})
	return err
}

func (s *amqpStore) drop() {
	if s.conn != nil {
		_ = s.conn.CloseDeadline(time.Now().Add(100 * time.Millisecond)) // it may be dead
	}
	s.conn, s.ch = nil, nil
}

func (s *amqpStore) put(ctx context.Context, value string) error {
	err := s.connect()
	if err == nil {
		var confirmation *amqp.DeferredConfirmation
		confirmation, err = s.ch.PublishWithDeferredConfirmWithContext(ctx, "", amqpQueue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(value)})
		if err == nil {
			var ok bool
			if ok, err = confirmation.WaitContext(ctx); err == nil && !ok {
				err = errors.New("refused")
			}
		}
	}
	if err != nil {
		s.drop()
	}
	return err
}

// all takes the messages up to one of its own, as others may go on writing, and gives all
// back, by closing the channel. It has as many as may be unacknowledged: 65,535.
func (s *amqpStore) all(ctx context.Context) ([]string, error) {
	last := fmt.Sprintf("last-%d", time.Now().UnixNano())
	var err error
	for range 3 * len(s.hosts) {
		if err = s.put(ctx, last); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	defer s.drop()
	// Without a limit a quorum queue has one of its own, 2,000.
	if err := s.ch.Qos(math.MaxUint16, 0, false); err != nil {
		return nil, err
	}
	messages, err := s.ch.ConsumeWithContext(ctx, amqpQueue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	var values []string
	for message := range messages {
		if string(message.Body) == last {
			return values, nil
		}
		values = append(values, string(message.Body))
	}
	return nil, fmt.Errorf("the channel was closed after %d messages", len(values))
}
